/* exp, log, tanh, erf and sigmoid of our own, so that every device computes the same bytes.
 *
 * Errors, against the exact value, measured by tests/engine/test_map.py: exp 1 ulp, log 1 ulp,
 * tanh 2 ulp, erf 2 ulp, sigmoid 3 ulp. Results too small for a normal float are 0 where denormals are flushed.
 * NaN gives NaN. exp(inf) = inf, exp(-inf) = 0, log(0) = -inf, log(x < 0) = NaN, log(inf) = inf. */
#ifndef TACIT_ELEMENTARY_H
#define TACIT_ELEMENTARY_H

#include "vector.h"

/* Adding this to a float of moderate size rounds it to an integer, which is left in the low bits. */
#define ROUNDING 12582912.0f      /* 1.5 * 2^23 */
#define ROUNDING_BITS 0x4b400000u /* the same */

/* 2^n for -126 <= n <= 127 */
static inline vector power_of_two(integers n)
{
    return (vector)(((words)n + 127) << 23);
}

static inline vector exponential(vector x)
{
    /* Beyond these bounds the result is 0 or inf; within them n fits the two factors below. */
    x = select((integers)(x > 90.0f), splat(90.0f), x);
    x = select((integers)(x < -104.0f), splat(-104.0f), x);
    const vector rounded = x * 1.44269504f + ROUNDING;
    const integers n = (integers)((words)rounded - ROUNDING_BITS);
    const vector whole = rounded - ROUNDING;
    /* ln 2 in two parts, the first with zeros at its end, so that the product is exact */
    const vector r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    vector p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * (r * r) + r) + 1.0f;
    /* 2^n in two factors: n may lie just outside what one float's exponent holds. For NaN, n is
     * arbitrary and the product is NaN all the same. */
    const integers half = n >> 1;
    return p * power_of_two(half) * power_of_two(n - half);
}

static inline vector logarithm(vector x)
{
    /* x = (1 + m) * 2^e with 1 + m in [sqrt(1/2), sqrt(2)) */
    const integers e = (integers)((words)x - 0x3f3504f3u) >> 23;
    const vector m = (vector)((words)x - ((words)e << 23)) - 1.0f;
    const vector z = m * m;
    vector p = splat(7.0376836292e-2f);
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    /* e to float without a conversion instruction: e is a small integer */
    const vector whole = (vector)((words)e + ROUNDING_BITS) - ROUNDING;
    vector y = p * m * z;
    y = y - whole * 2.12194440e-4f;
    y = y - 0.5f * z;
    y = (m + y) + whole * 0.693359375f;
    const float infinity = __builtin_inff();
    y = select((integers)(x == infinity), x, y);
    y = select((integers)(x < 1.17549435e-38f), splat(-infinity), y); /* 0 and denormals */
    y = select((integers)(x < 0), splat(__builtin_nanf("")), y);
    return select((integers)(x != x), x, y);
}

static inline vector hyperbolic_tangent(vector x)
{
    const integers sign = (integers)x & INT32_MIN;
    const vector size = (vector)((integers)x & INT32_MAX);
    const vector z = x * x;
    vector p = splat(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    const vector near = p * z * x + x;
    const vector far = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
    return select((integers)(size < 0.625f), near, (vector)((integers)far | sign));
}

static inline vector error_function(vector x)
{
    const integers sign = (integers)x & INT32_MIN;
    const vector size = (vector)((integers)x & INT32_MAX);
    const vector t = select((integers)(size > 4.0f), splat(4.0f), size), z = t * t;
    vector p = -5.96761703e-4f * z + 4.99119423e-3f;
    p = p * z - 2.67681349e-2f;
    p = p * z + 1.12819925e-1f;
    p = p * z - 3.76125336e-1f;
    p = p * z + 1.28379166e-1f;
    const vector near = p * t + t;
    /* 1 - exp(q) */
    vector q = (-1.72853470e-5f * t + 3.83197126e-4f) * z + (-3.88396438e-3f * t + 2.42546219e-2f);
    q = q * t - 1.06777877e-1f;
    q = q * t - 6.34846687e-1f;
    q = q * t - 1.28717512e-1f;
    q = q * t - t;
    const vector far = 1.0f - exponential(q);
    return (vector)((integers)select((integers)(t <= 0.927734375f), near, far) | sign);
}

static inline vector sigmoid(vector x)
{
    return 1.0f / (1.0f + exponential(-x));
}

#endif
