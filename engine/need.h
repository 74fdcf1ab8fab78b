/* What the verifier's files share: numbers that saturate, and what a record needs. */
#ifndef TACIT_NEED_H
#define TACIT_NEED_H

#include <stdbool.h>
#include <string.h>

#include "verify.h"

static inline uint64_t times(uint64_t a, uint64_t b)
{
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

static inline uint64_t plus(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static inline uint64_t times3(uint64_t a, uint64_t b, uint64_t c)
{
    return times(times(a, b), c);
}

static inline uint64_t times4(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    return times(times(a, b), times(c, d));
}

/* Bytes of `count` floats. */
static inline uint64_t floats(uint64_t count)
{
    return times(count, 4);
}

static inline uint64_t up(uint64_t a, uint64_t to)
{
    const uint64_t more = plus(a, to - 1);
    return more == UINT64_MAX ? more : more - more % to;
}

/* `number_bytes` in tape.py is the same. */
static inline uint64_t number_bytes(int32_t number, uint64_t count)
{
    switch (number) {
    case NUMBER_FLOAT32:
        return floats(count);
    case NUMBER_INT8:
        return up(plus(up(count, SCALED) / SCALED * 4, count), 4);
    default:
        return up(times(count, 2), 4);
    }
}

/* What a record needs, from its parameters: bytes of each operand, operations in all, and the steps that these do
 * not count (`unstated_steps` in verify.c). */
struct need {
    uint64_t bytes[OPERANDS];
    uint64_t operations, steps;
};

static inline bool between(int32_t value, int32_t least, int32_t most)
{
    return value >= least && value <= most;
}

/* The first `count` parameters are at least 1. */
static inline bool positive(const int32_t *p, int count)
{
    for (int i = 0; i < count; i++)
        if (p[i] < 1)
            return false;
    return true;
}

/* Bytes from the first element of a strided box to its last. */
static inline uint64_t box(const int32_t *side, const int32_t *stride)
{
    uint64_t last = 0;
    for (int i = 0; i < 4; i++)
        last = plus(last, times((uint64_t)side[i] - 1, (uint64_t)stride[i]));
    return floats(plus(last, 1));
}

/* A place so many floats on is a number on this machine. Loops move pointers one step beyond the last that they
 * read, and a step may be far larger than what is read. */
static inline bool countable(uint64_t count)
{
    return floats(count) <= PTRDIFF_MAX;
}

/* The same for a strided box, whose sides may be taken sixteen at a time. */
static inline bool box_countable(const int32_t *side, const int32_t *stride)
{
    uint64_t beyond = 0;
    for (int i = 0; i < 4; i++)
        beyond = plus(beyond, times(up((uint64_t)side[i], PANEL), (uint64_t)stride[i]));
    return countable(beyond);
}

/* The bits of floats that are not negative are in the order of the floats: `between` compares them. */
enum { ONE_BITS = 0x3f800000, LARGEST_BITS = 0x7f7fffff, SMALLEST_BITS = 1 };

/* What an operation looks like: operands, outputs first, and what each of them may or must be. */
enum trait { PLAIN = 0, MAY = 1 /* be absent */, PANELS = 2, SCRATCH = 4 };

struct signature {
    uint32_t outputs, operands, parameters;
    bool accumulates;
    uint8_t trait[OPERANDS];
};

/* verify.c: of a record whose operation is known, and whose counts are in range where it is a map. The fuzzers hold
 * kernels to exactly what these say. */
bool tacit_map_counts_in_range(const int32_t *p);
struct signature tacit_signature(const struct record *r);
enum rule tacit_check_parameters(const struct record *r, struct need *need);

/* verify_layers.c: the parameters of what models are made of beside convolutions, pools and maps. */
enum rule tacit_check_layer(const struct record *r, struct need *need);

#endif
