/* The example on a processor that sees the machine and its memory at fixed addresses. */
#include <stdint.h>

#include "example.h"

#ifndef PORT_ADDRESS
#error "compile with -DPORT_ADDRESS=0x..., where the processor sees the AXI4-Lite port"
#endif
#ifndef MEMORY_ADDRESS
#error "compile with -DMEMORY_ADDRESS=0x..., memory that processor and machine see there, uncached"
#endif

static volatile uint32_t *word_at(void *context, uint32_t offset)
{
    return (volatile uint32_t *)((uintptr_t)context + offset);
}

static uint32_t read_port(void *context, uint32_t offset)
{
    const uint32_t value = *word_at(context, offset);
    __sync_synchronize();
    return value;
}

static void write_port(void *context, uint32_t offset, uint32_t value)
{
    __sync_synchronize(); /* what lies in memory must be there before the machine is started */
    *word_at(context, offset) = value;
}

int main(void)
{
    struct gradloom machine = {read_port, write_port, 0, 0, 100000000u};
    struct example_memory memory = {0, MEMORY_ADDRESS};
    struct gradloom_end end;
    machine.context = (void *)(uintptr_t)PORT_ADDRESS;
    memory.bytes = (uint8_t *)(uintptr_t)MEMORY_ADDRESS;
    return (int)example_run(&machine, &memory, &end);
}
