/* Sums, and the loss.
 *
 * A sum has four accumulators, the i-th term going to the (i mod 4)-th, and ends as
 * (s0 + s1) + (s2 + s3): the same bytes for any vector width. */
#include "elementary.h"
#include "kernels.h"

/* y = scale * sum, or y + scale * sum in one rounding where the processor can */
static inline vector scaled(vector sum, float scale, const float *before)
{
    return before ? sum * splat(scale) + load(before) : sum * splat(scale);
}

static inline float scaled_one(float sum, float scale, const float *before)
{
    return before ? sum * scale + *before : sum * scale;
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

/* What the loss of one example is made of. */
struct softmax {
    float largest, sum; /* sum over c of exp(z[c] - largest) */
};

/* Also leaves exp(z[c] - largest) in `terms`, unless that is NULL. */
static struct softmax softmax_of(const float *z, ptrdiff_t classes, float *terms)
{
    struct softmax s = {z[0], 0};
    for (ptrdiff_t c = 1; c < classes; c++)
        s.largest = z[c] > s.largest ? z[c] : s.largest;
    float part[4] = {0};
    for (ptrdiff_t c = 0; c < classes; c += LANES) {
        const ptrdiff_t count = smaller(LANES, classes - c);
        float lane[LANES] = {0};
        memcpy(lane, z + c, (size_t)count * sizeof(float));
        store(lane, exponential(load(lane) - s.largest));
        for (ptrdiff_t i = 0; i < count; i++)
            part[(c + i) & 3] += lane[i];
        if (terms)
            memcpy(terms + c, lane, (size_t)count * sizeof(float));
    }
    s.sum = (part[0] + part[1]) + (part[2] + part[3]);
    return s;
}

static float cross_entropy_of(struct softmax s, float z)
{
    return (logarithm(splat(s.sum))[0] + s.largest) - z;
}

/* Padding and unknown labels count for nothing, whatever stands in their logits. */
static bool counts(float weight, int32_t label, ptrdiff_t classes)
{
    return weight != 0 && label >= 0 && label < classes;
}

/* The loss is summed in double, n ascending, and rounded once. */
void KERNEL(cross_entropy)(const int32_t *p, void *const *operand, bool add)
{
    const ptrdiff_t examples = p[CE_N], classes = p[CE_C];
    float *loss = operand[0], *dz = operand[1];
    const float *z = operand[2], *weight = operand[4], *divisor = operand[5];
    const int32_t *label = operand[3];
    double total = add ? (double)*loss : 0;
    for (ptrdiff_t n = 0; n < examples; n++, z += classes, dz += classes) {
        if (!counts(weight[n], label[n], classes)) {
            memset(dz, 0, (size_t)classes * sizeof(float));
            continue;
        }
        const float share = weight[n] / *divisor;
        const struct softmax s = softmax_of(z, classes, dz);
        total += (double)share * (double)cross_entropy_of(s, z[label[n]]);
        for (ptrdiff_t c = 0; c < classes; c++)
            dz[c] = share * (dz[c] / s.sum - (c == label[n] ? 1.0f : 0.0f));
    }
    *loss = (float)total;
}

void KERNEL(cross_entropy_score)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    const ptrdiff_t examples = p[CE_N], classes = p[CE_C];
    float *out = operand[0];
    const float *z = operand[1], *weight = operand[3];
    const int32_t *label = operand[2];
    for (ptrdiff_t n = 0; n < examples; n++, z += classes, out += 2) {
        if (!counts(weight[n], label[n], classes)) {
            out[0] = out[1] = 0;
            continue;
        }
        ptrdiff_t best = 0;
        for (ptrdiff_t c = 1; c < classes; c++)
            best = z[c] > z[best] ? c : best;
        out[0] = cross_entropy_of(softmax_of(z, classes, NULL), z[label[n]]);
        out[1] = best == label[n] ? 1.0f : 0.0f;
    }
}
