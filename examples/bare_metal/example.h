/* Two things to do with a machine, checked against numbers that the golden model computed. */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <stdint.h>

#include "gradloom_driver.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Memory that both the processor and the machine see. */
struct example_memory {
    uint8_t *bytes;   /* where the processor sees it */
    uint64_t address; /* where the machine sees it; a multiple of 4096 */
};

enum example_result {
    EXAMPLE_PASSED,
    EXAMPLE_NO_MACHINE,
    EXAMPLE_LAYER_FAILED,     /* a list ended with an error */
    EXAMPLE_LAYER_DIFFERS,    /* the result is not that of the golden model */
    EXAMPLE_TRAINING_FAILED,
    EXAMPLE_TRAINING_DIFFERS,
    EXAMPLE_NOT_LEARNED       /* the loss did not fall */
};

/* Bytes of memory that the example uses. */
uint32_t example_memory_bytes(void);

/* Run a fully connected layer, then train a small network; `end` tells of the last list. */
enum example_result example_run(const struct gradloom *machine,
                                const struct example_memory *memory, struct gradloom_end *end);

#ifdef __cplusplus
}
#endif

#endif
