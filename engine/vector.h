/* Vectors by the compiler's own extension: one source for every instruction set, no intrinsics.
 *
 * LANES is how many floats a vector holds. It changes how fast a kernel is and never what it computes:
 * kernels run along outputs, so the order of every sum is the same for any width. */
#ifndef TACIT_VECTOR_H
#define TACIT_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "format.h"

#ifdef TACIT_LANES
enum { LANES = TACIT_LANES };
#elif defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES))); /* for arithmetic on bits, which may wrap */
/* In memory a vector needs no more alignment than a float, and may look at any object. */
typedef float unaligned_vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

enum { PANEL_VECTORS = PANEL / LANES };
static_assert(PANEL % LANES == 0, "a panel is whole vectors");

static inline vector load(const float *from)
{
    return *(const unaligned_vector *)from;
}

static inline void store(float *to, vector value)
{
    *(unaligned_vector *)to = value;
}

/* `count` values, at most LANES, zero beyond. A call of memcpy costs more than what it copies here. */
static inline vector load_some(const float *from, ptrdiff_t count)
{
    if (count == LANES)
        return load(from);
    float lane[LANES] = {0};
    for (ptrdiff_t i = 0; i < count; i++)
        lane[i] = from[i];
    return load(lane);
}

static inline void store_some(float *to, vector value, ptrdiff_t count)
{
    if (count == LANES) {
        store(to, value);
        return;
    }
    float lane[LANES];
    store(lane, value);
    for (ptrdiff_t i = 0; i < count; i++)
        to[i] = lane[i];
}

static inline vector splat(float value)
{
    return value - (vector){0};
}

/* Relaxed WebAssembly has a minimum and a maximum that lose NaN, and its compiler takes them for a comparison and a
 * choice that keep it, unless it cannot see the two together. */
static inline integers unseen(integers mask)
{
#ifdef __wasm_relaxed_simd__
    __asm__("" : "+r"(mask));
#endif
    return mask;
}

/* `yes` where the mask is set, `no` where it is not. */
static inline vector select(integers mask, vector yes, vector no)
{
    mask = unseen(mask);
    return (vector)((mask & (integers)yes) | (~mask & (integers)no));
}

/* Zero where the mask is set. A comparison with NaN is false, so NaN stays. */
static inline vector clear(integers mask, vector value)
{
    return (vector)(~unseen(mask) & (integers)value);
}

static inline vector relu(vector a)
{
    return clear((integers)(a <= 0), a);
}

static inline vector square_root(vector a)
{
    vector root;
    UNROLL for (int i = 0; i < LANES; i++) root[i] = __builtin_sqrtf(a[i]);
    return root;
}

/* a * b + c, in one rounding where the processor can. Compilers see that by themselves, except where the product
 * is used in two ways: there some round it once for both. */
static inline float multiply_add_one(float a, float b, float c)
{
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

static inline vector multiply_add(vector a, vector b, vector c)
{
    vector sum;
    UNROLL for (int i = 0; i < LANES; i++) sum[i] = multiply_add_one(a[i], b[i], c[i]);
    return sum;
}

static inline ptrdiff_t smaller(ptrdiff_t a, ptrdiff_t b)
{
    return a < b ? a : b;
}

static inline ptrdiff_t larger(ptrdiff_t a, ptrdiff_t b)
{
    return a > b ? a : b;
}

/* a / b upwards, for a >= 0 and b > 0. */
static inline ptrdiff_t parts(ptrdiff_t a, ptrdiff_t b)
{
    return (a + b - 1) / b;
}

static inline ptrdiff_t up(ptrdiff_t a, ptrdiff_t to)
{
    return parts(a, to) * to;
}

static inline float float_of(int32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
