/* Losses of numbers: squares, Huber's, binary cross-entropy. An example's sum has four accumulators, as in
 * softmax.c; the examples' sums are added in double, n ascending. */
#include "elementary.h"
#include "kernels.h"
#include "vector.h"

struct measured {
    vector value, slope;
};

static inline struct measured measure(int32_t which, vector z, vector y, float delta)
{
    const vector d = z - y, size = (vector)((integers)d & INT32_MAX);
    switch (which) {
    case MEASURE_SQUARE:
        return (struct measured){d * d, d + d};
    case MEASURE_HUBER: {
        const integers far = (integers)(size > delta);
        const vector bound = (vector)((integers)splat(delta) | ((integers)d & INT32_MIN));
        return (struct measured){select(far, delta * (size - 0.5f * delta), 0.5f * d * d), select(far, bound, d)};
    }
    default: {
        /* max(z, 0) - z * y + log(1 + exp(-|z|)): no exponential is large */
        const vector tail = logarithm(1.0f + exponential((vector)((integers)z | INT32_MIN)));
        return (struct measured){(relu(z) - z * y) + tail, sigmoid(z) - y};
    }
    }
}

/* One example's sum; leaves share * slope in `dz` unless that is NULL. */
static float measure_row(const int32_t *p, const float *z, const float *y, float share, float *dz)
{
    const float delta = float_of(p[LOSS_DELTA]);
    float part[4] = {0};
    for (ptrdiff_t c = 0; c < p[LOSS_C]; c += LANES) {
        const ptrdiff_t count = smaller(LANES, p[LOSS_C] - c);
        const struct measured m =
            measure(p[LOSS_MEASURE], load_some(z + c, count), load_some(y + c, count), delta);
        float lane[LANES];
        store(lane, m.value);
        if (count == LANES)
            UNROLL for (int i = 0; i < LANES; i++) part[i & 3] += lane[i];
        else
            for (ptrdiff_t i = 0; i < count; i++)
                part[i & 3] += lane[i];
        if (dz)
            store_some(dz + c, m.slope * share, count);
    }
    return (part[0] + part[1]) + (part[2] + part[3]);
}

void KERNEL(loss)(const int32_t *p, void *const *operand, bool add)
{
    const ptrdiff_t values = p[LOSS_C];
    float *loss = operand[0], *dz = operand[1];
    const float *z = operand[2], *y = operand[3], *weight = operand[4], *divisor = operand[5];
    double sum = add ? (double)*loss : 0;
    for (ptrdiff_t n = 0; n < p[LOSS_N]; n++, z += values, y += values, dz += values) {
        if (weight[n] == 0) {
            memset(dz, 0, (size_t)values * sizeof(float));
            continue;
        }
        const float share = float_of(p[LOSS_SCALE]) * weight[n] / *divisor;
        sum += (double)share * (double)measure_row(p, z, y, share, dz);
    }
    *loss = (float)sum;
}

void KERNEL(loss_score)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    const ptrdiff_t values = p[LOSS_C];
    const float scale = float_of(p[LOSS_SCALE]);
    float *out = operand[0];
    const float *z = operand[1], *y = operand[2], *weight = operand[3];
    for (ptrdiff_t n = 0; n < p[LOSS_N]; n++, z += values, y += values, out += 2) {
        out[0] = out[1] = 0;
        if (weight[n] == 0)
            continue;
        float right = 0;
        for (ptrdiff_t c = 0; c < values; c++)
            right += (z[c] > 0) == (y[c] > 0.5f) ? 1.0f : 0.0f;
        out[0] = scale * measure_row(p, z, y, 0, NULL);
        out[1] = scale * right;
    }
}
