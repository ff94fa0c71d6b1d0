#include "gradloom_driver.h"

static uint32_t read_word(const struct gradloom *machine, uint32_t offset)
{
    return machine->read(machine->context, offset);
}

static void write_word(const struct gradloom *machine, uint32_t offset, uint32_t value)
{
    machine->write(machine->context, offset, value);
}

static uint64_t read_pair(const struct gradloom *machine, uint32_t low, uint32_t high)
{
    uint32_t upper = read_word(machine, high);
    for (;;) {
        const uint32_t lower = read_word(machine, low);
        const uint32_t again = read_word(machine, high);
        /* The low half may have wrapped between the two reads. */
        if (again == upper)
            return (uint64_t)upper << 32 | lower;
        upper = again;
    }
}

static uint32_t status_of(const struct gradloom *machine)
{
    return read_word(machine, GRADLOOM_SHELL_STATUS);
}

enum gradloom_result gradloom_init(const struct gradloom *machine)
{
    const uint32_t array = GRADLOOM_ROWS | GRADLOOM_COLUMNS << 16;
    const uint32_t axi = GRADLOOM_AXI_DATA_BITS | GRADLOOM_AXI_ADDRESS_BITS << 16;
    enum gradloom_result result;
    if (read_word(machine, GRADLOOM_REGISTER_IDENT) != GRADLOOM_IDENT)
        return GRADLOOM_NO_MACHINE;
    if (read_word(machine, GRADLOOM_SHELL_ARRAY) != array
        || read_word(machine, GRADLOOM_SHELL_AXI) != axi)
        return GRADLOOM_OTHER_MACHINE;
    result = gradloom_reset(machine);
    if (result == GRADLOOM_OK)
        gradloom_clear_counters(machine);
    return result;
}

enum gradloom_result gradloom_reset(const struct gradloom *machine)
{
    uint32_t looks;
    write_word(machine, GRADLOOM_SHELL_RESET, GRADLOOM_RESET_KEY);
    for (looks = 0; looks < machine->patience; ++looks)
        if ((status_of(machine) & GRADLOOM_STATUS_BUSY) == 0)
            return GRADLOOM_OK;
    return GRADLOOM_TIMEOUT;
}

enum gradloom_result gradloom_start(
    const struct gradloom *machine, uint64_t address, uint32_t limit)
{
    if (address % GRADLOOM_LIST_ALIGNMENT != 0)
        return GRADLOOM_MISALIGNED;
    if (limit == 0 || limit > GRADLOOM_MAX_LIST)
        return GRADLOOM_BAD_ARGUMENT;
    if ((status_of(machine) & GRADLOOM_STATUS_BUSY) != 0)
        return GRADLOOM_RUNNING;
    gradloom_acknowledge(machine);
    write_word(machine, GRADLOOM_SHELL_LIST_LOW, (uint32_t)address);
    write_word(machine, GRADLOOM_SHELL_LIST_HIGH, (uint32_t)(address >> 32));
    write_word(machine, GRADLOOM_SHELL_LIST_LIMIT, limit);
    write_word(machine, GRADLOOM_SHELL_LIST_START, 1);
    return GRADLOOM_OK;
}

enum gradloom_result gradloom_poll(const struct gradloom *machine, struct gradloom_end *end)
{
    const uint32_t status = status_of(machine);
    if ((status & GRADLOOM_STATUS_BUSY) != 0)
        return GRADLOOM_RUNNING;
    end->error = GRADLOOM_STATUS_ERROR(status);
    end->failed = GRADLOOM_STATUS_FAILED(status);
    end->address = read_pair(machine, GRADLOOM_SHELL_ERROR_LOW, GRADLOOM_SHELL_ERROR_HIGH);
    end->cycles = read_pair(machine, GRADLOOM_SHELL_CYCLES_LOW, GRADLOOM_SHELL_CYCLES_HIGH);
    return end->error == GRADLOOM_ERROR_NONE ? GRADLOOM_OK : GRADLOOM_FAILED;
}

enum gradloom_result gradloom_run(const struct gradloom *machine, uint64_t address,
                                  uint32_t limit, struct gradloom_end *end)
{
    uint32_t looks;
    enum gradloom_result result = gradloom_start(machine, address, limit);
    if (result != GRADLOOM_OK)
        return result;
    for (looks = 0; looks < machine->patience; ++looks) {
        if (machine->wait != 0)
            machine->wait(machine->context);
        result = gradloom_poll(machine, end);
        if (result != GRADLOOM_RUNNING) {
            gradloom_acknowledge(machine);
            return result;
        }
    }
    return GRADLOOM_TIMEOUT;
}

void gradloom_enable_interrupts(const struct gradloom *machine, uint32_t reasons)
{
    write_word(machine, GRADLOOM_SHELL_INTERRUPT_ENABLE, reasons);
}

uint32_t gradloom_acknowledge(const struct gradloom *machine)
{
    const uint32_t reasons = read_word(machine, GRADLOOM_SHELL_INTERRUPT_STATUS);
    write_word(machine, GRADLOOM_SHELL_INTERRUPT_STATUS, reasons);
    return reasons;
}

void gradloom_set_watchdog(const struct gradloom *machine, uint32_t cycles)
{
    write_word(machine, GRADLOOM_SHELL_WATCHDOG, cycles);
}

void gradloom_seed(const struct gradloom *machine, uint32_t seed)
{
    write_word(machine, GRADLOOM_REGISTER_SEED, seed);
}

static int are_scales(uint32_t first, uint32_t count)
{
    return first <= GRADLOOM_SCALES && count <= GRADLOOM_SCALES - first;
}

enum gradloom_result gradloom_write_scales(
    const struct gradloom *machine, uint32_t first, uint32_t count, const int8_t *exponents)
{
    uint32_t index;
    if (!are_scales(first, count))
        return GRADLOOM_BAD_ARGUMENT;
    for (index = 0; index < count; ++index)
        write_word(machine, GRADLOOM_ADDRESS(GRADLOOM_REGION_SCALE, first + index),
                   (uint8_t)exponents[index]);
    return GRADLOOM_OK;
}

enum gradloom_result gradloom_read_scales(
    const struct gradloom *machine, uint32_t first, uint32_t count, int8_t *exponents)
{
    uint32_t index;
    if (!are_scales(first, count))
        return GRADLOOM_BAD_ARGUMENT;
    for (index = 0; index < count; ++index) {
        const uint32_t word =
            read_word(machine, GRADLOOM_ADDRESS(GRADLOOM_REGION_SCALE, first + index));
        exponents[index] = (int8_t)((int)((word & 0xFFu) ^ 0x80u) - 0x80);
    }
    return GRADLOOM_OK;
}

void gradloom_clear_counters(const struct gradloom *machine)
{
    write_word(machine, GRADLOOM_REGISTER_CLEAR, 1);
}

uint64_t gradloom_counter(const struct gradloom *machine, enum gradloom_counter counter)
{
    return read_pair(machine, (uint32_t)counter, (uint32_t)counter + 4u);
}

uint64_t gradloom_loss(const struct gradloom *machine)
{
    return read_pair(machine, GRADLOOM_REGISTER_LOSS, GRADLOOM_REGISTER_LOSS + 4u);
}

void gradloom_set_memory(struct gradloom_descriptor *descriptor, uint64_t address)
{
    gradloom_set_memory_low(descriptor, (uint32_t)address);
    gradloom_set_memory_high(descriptor, (uint32_t)(address >> 32));
}

uint64_t gradloom_get_memory(const struct gradloom_descriptor *descriptor)
{
    return (uint64_t)gradloom_get_memory_high(descriptor) << 32
           | gradloom_get_memory_low(descriptor);
}
