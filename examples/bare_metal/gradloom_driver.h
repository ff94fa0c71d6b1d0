/* Runs lists of descriptors on a GradLoom machine. Needs only <stdint.h> and gradloom.h.
 *
 * The driver reaches the machine through two functions that you supply, and so runs on bare metal,
 * under an operating system and against a simulation. It touches no memory but its arguments:
 * that a list and its data have left the caches before a start, and that stale lines are dropped
 * after the end, is the caller's part. */
#ifndef GRADLOOM_DRIVER_H
#define GRADLOOM_DRIVER_H

#include <stdint.h>

#include "gradloom.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How to reach a machine. Offsets are bytes from the start of its AXI4-Lite port. What the
 * processor wrote to memory before a `write` must be there when the machine sees it: on most
 * processors that takes a barrier. */
struct gradloom {
    uint32_t (*read)(void *context, uint32_t offset);
    void (*write)(void *context, uint32_t offset, uint32_t value);
    /* Returns once the interrupt may have come, at the latest when it has. Null: poll. */
    void (*wait)(void *context);
    void *context;
    /* How often `gradloom_run` and `gradloom_reset` look for the end. */
    uint32_t patience;
};

enum gradloom_result {
    GRADLOOM_OK,
    GRADLOOM_NO_MACHINE,    /* the identification is not that of gradloom.h */
    GRADLOOM_OTHER_MACHINE, /* its array or bus is not that of gradloom.h */
    GRADLOOM_MISALIGNED,    /* a list must begin at a multiple of GRADLOOM_LIST_ALIGNMENT */
    GRADLOOM_BAD_ARGUMENT,  /* no descriptors, too many, or places that do not exist */
    GRADLOOM_RUNNING,       /* a list runs */
    GRADLOOM_TIMEOUT,       /* patience has run out */
    GRADLOOM_FAILED         /* the list ended with an error */
};

/* How a list ended. */
struct gradloom_end {
    uint32_t error;   /* enum gradloom_error; gradloom_error_text() names it */
    uint32_t failed;  /* index of the descriptor, its low 16 bits */
    uint64_t address; /* in memory: of the descriptor, or of the transfer that failed */
    uint64_t cycles;  /* from start to interrupt */
};

/* Check that the machine is the one of gradloom.h, and reset it. */
enum gradloom_result gradloom_init(const struct gradloom *machine);

/* Stop what runs, bring the bus to rest and forget the registers; buffers keep their contents. */
enum gradloom_result gradloom_reset(const struct gradloom *machine);

/* Start the list at an address of the machine's memory; it ends after `limit` descriptors at the
 * latest. */
enum gradloom_result gradloom_start(
    const struct gradloom *machine, uint64_t address, uint32_t limit);

/* Tell whether the list runs, else how it ended. */
enum gradloom_result gradloom_poll(const struct gradloom *machine, struct gradloom_end *end);

/* Start a list, wait for its end and clear its interrupt. */
enum gradloom_result gradloom_run(const struct gradloom *machine, uint64_t address,
                                  uint32_t limit, struct gradloom_end *end);

/* Let these reasons raise the interrupt: bits of enum gradloom_interrupt. */
void gradloom_enable_interrupts(const struct gradloom *machine, uint32_t reasons);

/* For the interrupt handler: return the reasons that stand, and clear them. */
uint32_t gradloom_acknowledge(const struct gradloom *machine);

/* End a list with the error WATCHDOG after so many cycles without progress; 0: never. */
void gradloom_set_watchdog(const struct gradloom *machine, uint32_t cycles);

/* The rest reaches the core. All but reading counters and the loss hold up the bus while a list
 * runs, so they are for between lists. */

/* Seed the generators of stochastic rounding. */
void gradloom_seed(const struct gradloom *machine, uint32_t seed);

/* Set exponents of the scale table from place `first` on. */
enum gradloom_result gradloom_write_scales(
    const struct gradloom *machine, uint32_t first, uint32_t count, const int8_t *exponents);

/* Read exponents of the scale table from place `first` on. */
enum gradloom_result gradloom_read_scales(
    const struct gradloom *machine, uint32_t first, uint32_t count, int8_t *exponents);

/* Zero the counters and the loss. */
void gradloom_clear_counters(const struct gradloom *machine);

uint64_t gradloom_counter(const struct gradloom *machine, enum gradloom_counter counter);

/* The sum of -log2 of the labels' probabilities, in 2^-16. */
uint64_t gradloom_loss(const struct gradloom *machine);

/* The memory address of a LOAD or SAVE. */
void gradloom_set_memory(struct gradloom_descriptor *descriptor, uint64_t address);
uint64_t gradloom_get_memory(const struct gradloom_descriptor *descriptor);

#ifdef __cplusplus
}
#endif

#endif
