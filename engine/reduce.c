/* Sums over rows.
 *
 * A sum has four accumulators, the i-th term going to the (i mod 4)-th, and ends as
 * (s0 + s1) + (s2 + s3): the same bytes for any vector width. */
#include "kernels.h"
#include "vector.h"

/* y = scale * sum, or y + scale * sum in one rounding where the processor can */
static inline vector scaled(vector sum, float scale, const float *before)
{
    return before ? multiply_add(sum, splat(scale), load(before)) : sum * splat(scale);
}

static inline float scaled_one(float sum, float scale, const float *before)
{
    return before ? multiply_add_one(sum, scale, *before) : sum * scale;
}

void KERNEL(sum)(const int32_t *p, void *const *operand, bool add)
{
    const ptrdiff_t sets = p[SUM_S], rows = p[SUM_R], channels = p[SUM_C];
    const float scale = float_of(p[SUM_SCALE]);
    float *y = operand[0];
    const float *x = operand[1];
    for (ptrdiff_t s = 0; s < sets; s++, y += channels, x += rows * channels) {
        ptrdiff_t c = 0;
        for (; c + LANES <= channels; c += LANES) {
            vector part[4] = {{0}};
            for (ptrdiff_t r = 0; r < rows; r++)
                part[r & 3] += load(x + r * channels + c);
            store(y + c, scaled((part[0] + part[1]) + (part[2] + part[3]), scale, add ? y + c : NULL));
        }
        for (; c < channels; c++) {
            float part[4] = {0};
            for (ptrdiff_t r = 0; r < rows; r++)
                part[r & 3] += x[r * channels + c];
            y[c] = scaled_one((part[0] + part[1]) + (part[2] + part[3]), scale, add ? y + c : NULL);
        }
    }
}
