/* Softmax, and the loss of a class. Sums have four accumulators, term c going to the (c mod 4)-th, and end
 * as (s0 + s1) + (s2 + s3). */
#include "elementary.h"
#include "kernels.h"
#include "vector.h"

/* ---- Rows ---------------------------------------------------------------------------------------- */

typedef float four __attribute__((vector_size(16), aligned(4), may_alias));

/* Adds `count` terms, at most LANES, the first of which is the c-th of its sum, c a multiple of four. */
static inline void add_terms(four *part, const float *terms, ptrdiff_t count)
{
    if (count == LANES)
        UNROLL for (int i = 0; i < LANES; i += 4) *part += *(const four *)(terms + i);
    else
        for (ptrdiff_t i = 0; i < count; i++)
            (*part)[i & 3] += terms[i];
}

static inline float total(four part)
{
    return (part[0] + part[1]) + (part[2] + part[3]);
}

/* The largest; a NaN is passed over here and makes the sum one. */
static float largest_of(const float *z, ptrdiff_t count)
{
    vector most = splat(-__builtin_inff());
    ptrdiff_t c = 0;
    for (; c + LANES <= count; c += LANES) {
        const vector v = load(z + c);
        most = select((integers)(v > most), v, most);
    }
    float largest = most[0];
    for (int i = 1; i < LANES; i++)
        largest = most[i] > largest ? most[i] : largest;
    for (; c < count; c++)
        largest = z[c] > largest ? z[c] : largest;
    return largest;
}

/* What the softmax of one row is made of. */
struct softmax {
    float largest, sum; /* sum over c of exp(z[c] - largest) */
};

/* Also leaves exp(z[c] - largest) in `terms`, which may be z, unless that is NULL. */
static struct softmax softmax_of(const float *z, ptrdiff_t classes, float *terms)
{
    const float largest = largest_of(z, classes);
    four part = {0};
    for (ptrdiff_t c = 0; c < classes; c += LANES) {
        const ptrdiff_t count = smaller(LANES, classes - c);
        float lane[LANES];
        store(lane, exponential(load_some(z + c, count) - largest));
        add_terms(&part, lane, count);
        if (terms)
            store_some(terms + c, load(lane), count);
    }
    return (struct softmax){largest, total(part)};
}

static float sum_of(const float *z, ptrdiff_t count)
{
    four part = {0};
    for (ptrdiff_t c = 0; c < count; c += LANES)
        add_terms(&part, z + c, smaller(LANES, count - c));
    return total(part);
}

/* Columns that a row sees. */
static ptrdiff_t visible(const int32_t *p, ptrdiff_t row)
{
    const ptrdiff_t causal = p[SOFTMAX_CAUSAL], columns = p[SOFTMAX_C];
    return causal == 0 ? columns : smaller(columns, row % causal + 1);
}

void KERNEL(softmax)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    float *y = operand[0];
    const float *x = operand[1];
    for (ptrdiff_t r = 0; r < p[SOFTMAX_ROWS]; r++, x += p[SOFTMAX_C], y += p[SOFTMAX_C]) {
        const ptrdiff_t count = visible(p, r);
        const float sum = softmax_of(x, count, y).sum;
        for (ptrdiff_t c = 0; c < count; c++)
            y[c] /= sum;
        memset(y + count, 0, (size_t)(p[SOFTMAX_C] - count) * sizeof(float));
    }
}

void KERNEL(softmax_gradient)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    float *gx = operand[0];
    const float *g = operand[1], *y = operand[2];
    const ptrdiff_t columns = p[SOFTMAX_C];
    for (ptrdiff_t r = 0; r < p[SOFTMAX_ROWS]; r++, gx += columns, g += columns, y += columns) {
        const ptrdiff_t count = visible(p, r);
        four part = {0};
        ptrdiff_t c = 0;
        for (; c + 4 <= count; c += 4)
            part += *(const four *)(g + c) * *(const four *)(y + c);
        for (; c < count; c++)
            part[c & 3] += g[c] * y[c];
        const float sum = total(part);
        for (c = 0; c < count; c++)
            gx[c] = y[c] * (g[c] - sum);
        memset(gx + count, 0, (size_t)(columns - count) * sizeof(float));
    }
}

/* ---- Cross-entropy -------------------------------------------------------------------------------- */

static float cross_entropy_of(struct softmax s, float z)
{
    return (logarithm(splat(s.sum))[0] + s.largest) - z;
}

/* Padding and unknown labels count for nothing, whatever stands in their logits. */
static bool counts(const int32_t *p, float weight, int32_t label)
{
    return weight != 0 && label >= 0 && label < p[CE_C] && label != p[CE_IGNORE];
}

/* The loss is summed in double, n ascending, and rounded once. */
void KERNEL(cross_entropy)(const int32_t *p, void *const *operand, bool add)
{
    const ptrdiff_t rows = p[CE_N], classes = p[CE_C], positions = p[CE_T];
    const float smoothing = float_of(p[CE_SMOOTHING]), scale = float_of(p[CE_SCALE]);
    const float own = 1.0f - smoothing, each = smoothing / (float)classes;
    float *loss = operand[0], *dz = operand[1];
    const float *z = operand[2], *weight = operand[4], *divisor = operand[5];
    const int32_t *label = operand[3];
    double sum = add ? (double)*loss : 0;
    for (ptrdiff_t n = 0; n < rows; n++, z += classes, dz += classes) {
        const float w = weight[n / positions];
        if (!counts(p, w, label[n])) {
            memset(dz, 0, (size_t)classes * sizeof(float));
            continue;
        }
        const float share = scale * w / *divisor;
        const struct softmax s = softmax_of(z, classes, dz);
        const float target = smoothing == 0 ? z[label[n]] : own * z[label[n]] + each * sum_of(z, classes);
        sum += (double)share * (double)cross_entropy_of(s, target);
        for (ptrdiff_t c = 0; c < classes; c++)
            dz[c] = share * (dz[c] / s.sum - ((c == label[n] ? own : 0.0f) + each));
    }
    *loss = (float)sum;
}

/* Of one row: its loss, and whether the first largest logit is the label. */
static void score(float *loss, float *hit, const float *z, ptrdiff_t classes, int32_t label)
{
    ptrdiff_t best = 0;
    for (ptrdiff_t c = 1; c < classes; c++)
        best = z[c] > z[best] ? c : best;
    *loss += cross_entropy_of(softmax_of(z, classes, NULL), z[label]);
    *hit += best == label ? 1.0f : 0.0f;
}

void KERNEL(cross_entropy_score)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    const ptrdiff_t examples = p[CE_N] / p[CE_T], classes = p[CE_C], positions = p[CE_T];
    float *out = operand[0];
    const float *z = operand[1], *weight = operand[3];
    const int32_t *label = operand[2];
    for (ptrdiff_t e = 0; e < examples; e++, out += 2) {
        float loss = 0, hits = 0, counted = 0;
        for (ptrdiff_t t = 0; t < positions; t++, label++, z += classes) {
            if (!counts(p, weight[e], *label))
                continue;
            score(&loss, &hits, z, classes, *label);
            counted++;
        }
        out[0] = counted > 0 ? loss / counted : 0;
        out[1] = counted > 0 ? hits / counted : 0;
    }
}
