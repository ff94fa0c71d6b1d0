#include "example.h"

#include <string.h>

#include "data.h"

uint32_t example_memory_bytes(void)
{
    return EXAMPLE_MEMORY_BYTES;
}

/* Put a descriptor behind those that a list has. Descriptors are little-endian. */
static void append(const struct example_memory *memory, uint32_t list, uint32_t *count,
                   const struct gradloom_descriptor *descriptor)
{
    uint8_t *place = memory->bytes + list + *count * sizeof descriptor->words;
    uint32_t byte;
    for (byte = 0; byte < sizeof descriptor->words; ++byte)
        place[byte] = (uint8_t)(descriptor->words[byte / 4] >> byte % 4 * 8);
    ++*count;
}

/* A LOAD or SAVE of `words` words of a buffer, side by side from `place` on in memory. */
static struct gradloom_descriptor transfer(const struct example_memory *memory,
                                           enum gradloom_opcode opcode,
                                           enum gradloom_region region, uint32_t words,
                                           uint32_t place)
{
    struct gradloom_descriptor d = {{0}};
    gradloom_set_opcode(&d, (uint32_t)opcode);
    gradloom_set_function(&d, (uint32_t)region);
    gradloom_set_rows(&d, 1);
    gradloom_set_steps(&d, words);
    gradloom_set_memory(&d, memory->address + place);
    return d;
}

/* Y = ReLU(X W), a step a sample. Blocks of features lie one after the other in the buffers. */
static enum example_result run_layer(const struct gradloom *machine,
                                     const struct example_memory *memory,
                                     struct gradloom_end *end)
{
    const uint32_t y_base = LAYER_K_TILES * LAYER_STEPS;
    struct gradloom_descriptor d;
    uint32_t count = 0;

    memcpy(memory->bytes + LAYER_X_PLACE, layer_x, sizeof layer_x);
    memcpy(memory->bytes + LAYER_W_PLACE, layer_w, sizeof layer_w);

    d = transfer(memory, GRADLOOM_OPCODE_LOAD, GRADLOOM_REGION_ACTIVATION,
                 LAYER_K_TILES * LAYER_STEPS, LAYER_X_PLACE);
    append(memory, EXAMPLE_LIST_PLACE, &count, &d);

    d = transfer(memory, GRADLOOM_OPCODE_LOAD, GRADLOOM_REGION_WEIGHT,
                 LAYER_K_TILES * LAYER_N_TILES * GRADLOOM_ROWS, LAYER_W_PLACE);
    append(memory, EXAMPLE_LIST_PLACE, &count, &d);

    memset(&d, 0, sizeof d);
    gradloom_set_opcode(&d, GRADLOOM_OPCODE_FORWARD);
    gradloom_set_wait_memory(&d, 1);
    gradloom_set_steps(&d, LAYER_STEPS);
    gradloom_set_x_stride(&d, LAYER_STEPS);
    gradloom_set_k_tiles(&d, LAYER_K_TILES);
    gradloom_set_n_tiles(&d, LAYER_N_TILES);
    gradloom_set_out_base(&d, y_base);
    gradloom_set_out_shift(&d, LAYER_SHIFT);
    gradloom_set_relu(&d, 1);
    gradloom_set_y_unsigned(&d, 1);
    append(memory, EXAMPLE_LIST_PLACE, &count, &d);

    d = transfer(memory, GRADLOOM_OPCODE_SAVE, GRADLOOM_REGION_ACTIVATION,
                 LAYER_N_TILES * LAYER_STEPS, LAYER_Y_PLACE);
    gradloom_set_out_base(&d, y_base);
    gradloom_set_wait_compute(&d, 1);
    gradloom_set_end(&d, 1);
    append(memory, EXAMPLE_LIST_PLACE, &count, &d);

    if (gradloom_run(machine, memory->address + EXAMPLE_LIST_PLACE, count, end) != GRADLOOM_OK)
        return EXAMPLE_LAYER_FAILED;
    if (memcmp(memory->bytes + LAYER_Y_PLACE, layer_y, sizeof layer_y) != 0)
        return EXAMPLE_LAYER_DIFFERS;
    return EXAMPLE_PASSED;
}

/* Run a list that the compiler made for memory at address 0. */
static enum gradloom_result run_compiled(const struct gradloom *machine,
                                         const struct example_memory *memory,
                                         const struct gradloom_descriptor *list, uint32_t length,
                                         struct gradloom_end *end)
{
    uint32_t count = 0;
    while (count < length) {
        struct gradloom_descriptor d = list[count];
        const uint32_t opcode = gradloom_get_opcode(&d);
        if (opcode == GRADLOOM_OPCODE_LOAD || opcode == GRADLOOM_OPCODE_SAVE)
            gradloom_set_memory(&d, gradloom_get_memory(&d) + memory->address);
        gradloom_set_end(&d, count + 1 == length);
        append(memory, EXAMPLE_LIST_PLACE, &count, &d);
    }
    return gradloom_run(machine, memory->address + EXAMPLE_LIST_PLACE, length, end);
}

/* Train on one batch, again and again; the machine does every part of a step. */
static enum example_result train(const struct gradloom *machine,
                                 const struct example_memory *memory, struct gradloom_end *end)
{
    uint64_t first = 0;
    uint64_t loss = 0;
    uint32_t step;

    memcpy(memory->bytes + TRAINING_PLACE, training_memory, sizeof training_memory);
    gradloom_seed(machine, TRAINING_SEED);
    gradloom_write_scales(machine, 0, GRADLOOM_SCALES, training_scales);
    if (run_compiled(machine, memory, training_loads, TRAINING_LOADS, end) != GRADLOOM_OK)
        return EXAMPLE_TRAINING_FAILED;
    for (step = 0; step < TRAINING_STEPS; ++step) {
        gradloom_clear_counters(machine);
        if (run_compiled(machine, memory, training_step, TRAINING_STEP, end) != GRADLOOM_OK)
            return EXAMPLE_TRAINING_FAILED;
        loss = gradloom_loss(machine);
        if (step == 0)
            first = loss;
    }
    if (run_compiled(machine, memory, training_saves, TRAINING_SAVES, end) != GRADLOOM_OK)
        return EXAMPLE_TRAINING_FAILED;
    if (loss != TRAINING_LOSS
        || memcmp(memory->bytes + RESULT_PLACE, training_result, sizeof training_result) != 0)
        return EXAMPLE_TRAINING_DIFFERS;
    return loss < first ? EXAMPLE_PASSED : EXAMPLE_NOT_LEARNED;
}

enum example_result example_run(const struct gradloom *machine,
                                const struct example_memory *memory, struct gradloom_end *end)
{
    enum example_result result;
    memset(end, 0, sizeof *end);
    if (gradloom_init(machine) != GRADLOOM_OK)
        return EXAMPLE_NO_MACHINE;
    if (machine->wait != 0)
        gradloom_enable_interrupts(machine, GRADLOOM_INTERRUPT_DONE);
    result = run_layer(machine, memory, end);
    return result == EXAMPLE_PASSED ? train(machine, memory, end) : result;
}
