/* Weights held as float32 or in fewer bits, and a stretch of them widened.
 *
 * Panels that are not float32 are one row of CONVERT's. What is read of it becomes exactly what CONVERT would
 * make of it, a few kilobytes at a time: the row never stands anywhere as a whole in float32. */
#ifndef TACIT_WEIGHTS_H
#define TACIT_WEIGHTS_H

#include "vector.h"

struct weights {
    int32_t number;
    const void *values;
    const float *scale; /* int8's */
};

/* `count` of them, as an operand holds them. */
static inline struct weights weights_in(int32_t number, const void *operand, ptrdiff_t count)
{
    if (number != NUMBER_INT8)
        return (struct weights){number, operand, NULL};
    const float *scale = operand;
    return (struct weights){number, scale + parts(count, SCALED), scale};
}

/* By whole numbers where it is too small for a normal float16: the processor flushes such numbers. */
static inline int32_t float16_bits(int32_t half)
{
    const int32_t size = half & 0x7fff;
    const float small = (float)size * 0x1p-24f;
    int32_t bits;
    memcpy(&bits, &small, sizeof bits);
    bits = size < 0x400 ? bits : (size << 13) + 0x38000000;
    bits = size < 0x7c00 ? bits : size << 13 | 0x7f800000;
    return bits | (int32_t)((uint32_t)(half & 0x8000) << 16);
}

/* `count` values from `at` on. */
static inline void widen(float *restrict to, const struct weights *w, ptrdiff_t at, ptrdiff_t count)
{
    if (w->number == NUMBER_INT8) {
        const int8_t *restrict value = (const int8_t *)w->values + at;
        for (ptrdiff_t i = 0; i < count;) {
            const ptrdiff_t block = (at + i) / SCALED, end = smaller(count, (block + 1) * SCALED - at);
            const float scale = w->scale[block];
            for (; i < end; i++)
                to[i] = (float)value[i] * scale;
        }
    } else {
        const uint16_t *restrict value = (const uint16_t *)w->values + at;
        int32_t *bits = (int32_t *)(void *)to;
        for (ptrdiff_t i = 0; i < count; i++)
            bits[i] = float16_bits(value[i]);
    }
}

#endif
