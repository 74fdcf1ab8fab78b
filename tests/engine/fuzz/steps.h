/* Put before every source of the engine where steps are counted: the compiler calls the counter at every block of
 * code, and what memset and memcpy do is added here, sixteen floats a step. */
#ifndef TACIT_FUZZ_STEPS_H
#define TACIT_FUZZ_STEPS_H

#include <stdint.h>
#include <string.h>

extern uint64_t steps_taken;

static inline void *counted_memset(void *to, int value, size_t count)
{
    steps_taken += count / 64;
    return memset(to, value, count);
}

static inline void *counted_memcpy(void *to, const void *from, size_t count)
{
    steps_taken += count / 64;
    return memcpy(to, from, count);
}

#define memset counted_memset
#define memcpy counted_memcpy

#endif
