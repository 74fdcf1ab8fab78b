/* Normalisation of an example's channels in groups, and its gradient.
 *
 * Sums of channels have four accumulators over the rows, as in reduce.c. A group's sum has sixteen, its
 * j-th channel going to the (j mod 16)-th, and ends by halves. Channels are taken 256 at a time: whole
 * groups, or parts of one that is larger. */
#include "kernels.h"
#include "vector.h"

enum { BLOCK = 256 };

/* What has one value for each channel of a block. */
typedef float block[BLOCK];

/* ---- Sums of channels ------------------------------------------------------------------------------ */

/* out[c] = sum over rows of TERM, which is made of the row at `x` or `g` and of the channel's numbers. */
#define CHANNEL_SUM(NAME, VECTOR_TERM, TERM, ...)                                                  \
    static void NAME(float *out, ptrdiff_t rows, ptrdiff_t step, ptrdiff_t count, __VA_ARGS__)     \
    {                                                                                              \
        ptrdiff_t c = 0;                                                                           \
        for (; rows == 1 && c + LANES <= count; c += LANES) { /* the same, for a LayerNorm */      \
            const ptrdiff_t i = c;                                                                 \
            vector sum = {0};                                                                      \
            sum += VECTOR_TERM;                                                                    \
            store(out + c, sum);                                                                   \
        }                                                                                          \
        for (; c + LANES <= count; c += LANES) {                                                   \
            vector part[4] = {{0}};                                                                \
            ptrdiff_t r = 0;                                                                       \
            for (; r + 4 <= rows; r += 4)                                                          \
                UNROLL for (int k = 0; k < 4; k++) {                                               \
                    const ptrdiff_t i = (r + k) * step + c;                                        \
                    part[k] += VECTOR_TERM;                                                        \
                }                                                                                  \
            UNROLL for (int k = 0; k < 3; k++) if (r + k < rows) {                                 \
                const ptrdiff_t i = (r + k) * step + c;                                            \
                part[k] += VECTOR_TERM;                                                            \
            }                                                                                      \
            store(out + c, (part[0] + part[1]) + (part[2] + part[3]));                             \
        }                                                                                          \
        for (; c < count; c++) {                                                                   \
            float part[4] = {0};                                                                   \
            for (ptrdiff_t r = 0; r < rows; r++) {                                                 \
                const ptrdiff_t i = r * step + c;                                                  \
                part[r & 3] += TERM;                                                               \
            }                                                                                      \
            out[c] = (part[0] + part[1]) + (part[2] + part[3]);                                    \
        }                                                                                          \
    }

static inline vector squared(vector a)
{
    return a * a;
}

static inline float squared_one(float a)
{
    return a * a;
}

CHANNEL_SUM(sum_values, load(x + i), x[i], const float *x)
CHANNEL_SUM(sum_squares, squared(load(x + i) - load(mean + c)), squared_one(x[i] - mean[c]), const float *x,
            const float *mean)
CHANNEL_SUM(sum_products, load(g + i) * (load(x + i) - load(mean + c)), g[i] * (x[i] - mean[c]), const float *g,
            const float *x, const float *mean)

/* ---- Groups ------------------------------------------------------------------------------------------ */

struct norm {
    ptrdiff_t rows, channels, groups, group; /* channels in all and of a group */
    ptrdiff_t part, span;                    /* channels of a block; of the groups that are taken together */
    float count;                             /* values of a group */
};

static struct norm norm_of(const int32_t *p)
{
    struct norm m = {.rows = p[NORM_R], .channels = p[NORM_C], .groups = p[NORM_G], .group = p[NORM_C] / p[NORM_G]};
    m.part = m.group <= BLOCK ? BLOCK / m.group * m.group : BLOCK;
    m.span = m.group <= BLOCK ? m.part : m.group;
    m.count = (float)m.rows * (float)m.group;
    return m;
}

/* The sum of sixteen, halves added to halves. */
static inline float by_halves(const float *sixteen)
{
    typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
    const four *s = (const four *)sixteen;
    const four sum = (s[0] + s[2]) + (s[1] + s[3]);
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

static inline float by_halves_of(const vector *sum)
{
    float sixteen[PANEL];
    UNROLL for (int j = 0; j < PANEL_VECTORS; j++) store(sixteen + j * LANES, sum[j]);
    return by_halves(sixteen);
}

/* Whether a group is one row of whole panels, as a LayerNorm's mostly are: then nothing is spread or folded, and the
 * sums are the same. */
static bool in_rows(const struct norm *m)
{
    return m->rows == 1 && m->group % PANEL == 0;
}

/* Runs along a row, a panel at a time; `c` and `j` say where a vector stands. */
#define ALONG(m) for (ptrdiff_t c = 0; c < (m)->group; c += PANEL) UNROLL for (int j = 0; j < PANEL_VECTORS; j++)

/* Takes a block's sums, channel by channel, into those of its groups; `at` is where the block begins in its
 * span. `sixteen` holds the sums of the group under way. */
static void fold(const struct norm *m, float *totals, float *sixteen, const float *sums, ptrdiff_t at, ptrdiff_t count)
{
    ptrdiff_t inside = at; /* a span has one block or one group */
    for (ptrdiff_t c = 0, taken; c < count; c += taken, inside = 0) {
        taken = smaller(m->group - inside, count - c);
        if (inside == 0)
            memset(sixteen, 0, PANEL * sizeof(float));
        vector sum[PANEL_VECTORS];
        UNROLL for (int j = 0; j < PANEL_VECTORS; j++) sum[j] = load(sixteen + j * LANES);
        ptrdiff_t i = 0;
        for (; i + PANEL <= taken; i += PANEL)
            UNROLL for (int j = 0; j < PANEL_VECTORS; j++) sum[j] += load(sums + c + i + j * LANES);
        UNROLL for (int j = 0; j < PANEL_VECTORS; j++) store(sixteen + j * LANES, sum[j]);
        for (ptrdiff_t j = 0; i < taken; i++, j++)
            sixteen[j] += sums[c + i];
        if (inside + taken < m->group)
            continue;
        *totals++ = by_halves(sixteen);
    }
}

/* Each channel of a block gets its group's value. `step` is from group to group. */
static void spread(const struct norm *m, float *to, const float *values, ptrdiff_t step, ptrdiff_t at, ptrdiff_t count)
{
    ptrdiff_t inside = at; /* as in fold */
    for (ptrdiff_t c = 0; c < count; inside = 0, values += step) {
        const ptrdiff_t end = smaller(count, c + m->group - inside);
        for (; c + LANES <= end; c += LANES)
            store(to + c, splat(*values));
        for (; c < end; c++)
            to[c] = *values;
    }
}

/* For each block of a span of `width` channels: its place and its width. */
#define EACH_BLOCK(m, width, at, count)                                                            \
    for (ptrdiff_t at = 0, count; at < (width) && (count = smaller((m)->part, (width) - at), true); at += count)

/* ---- Forward ------------------------------------------------------------------------------------------ */

/* y = (x - mean) * a + b, each a channel's; y may be x. */
static void normalise(const struct norm *m, float *y, const float *x, const float *mean, const float *a,
                      const float *b, ptrdiff_t count)
{
    for (ptrdiff_t r = 0; r < m->rows; r++, x += m->channels, y += m->channels) {
        ptrdiff_t c = 0;
        for (; c + LANES <= count; c += LANES)
            store(y + c, (load(x + c) - load(mean + c)) * load(a + c) + load(b + c));
        for (; c < count; c++)
            y[c] = (x[c] - mean[c]) * a[c] + b[c];
    }
}

/* The groups in `width` channels from x on. */
static void norm_span(const struct norm *m, float eps, float *y, float *stats, const float *x, const float *gamma,
                      const float *beta, ptrdiff_t width)
{
    block sums, mean, a, b, means, scales;
    float sixteen[PANEL];
    const ptrdiff_t groups = width / m->group;
    EACH_BLOCK(m, width, at, count)
    {
        sum_values(sums, m->rows, m->channels, count, x + at);
        fold(m, means, sixteen, sums, at, count);
    }
    for (ptrdiff_t g = 0; g < groups; g++)
        means[g] /= m->count;
    EACH_BLOCK(m, width, at, count)
    {
        spread(m, mean, means, 1, at, count);
        sum_squares(sums, m->rows, m->channels, count, x + at, mean);
        fold(m, scales, sixteen, sums, at, count);
    }
    for (ptrdiff_t g = 0; g < groups; g++) {
        scales[g] = 1.0f / __builtin_sqrtf(scales[g] / m->count + eps);
        if (stats) {
            stats[2 * g] = means[g];
            stats[2 * g + 1] = scales[g];
        }
    }
    EACH_BLOCK(m, width, at, count)
    {
        spread(m, mean, means, 1, at, count);
        spread(m, a, scales, 1, at, count);
        for (ptrdiff_t c = 0; gamma && c < count; c++)
            a[c] *= gamma[at + c];
        if (beta)
            memcpy(b, beta + at, (size_t)count * sizeof(float));
        else
            memset(b, 0, (size_t)count * sizeof(float));
        normalise(m, y + at, x + at, mean, a, b, count);
    }
}

static void norm_row(const struct norm *m, float eps, float *y, float *stats, const float *x, const float *gamma,
                     const float *beta)
{
    vector sum[PANEL_VECTORS] = {{0}}, squares[PANEL_VECTORS] = {{0}};
    ALONG(m) sum[j] += load(x + c + j * LANES);
    const float mean = by_halves_of(sum) / m->count;
    ALONG(m) squares[j] += squared(load(x + c + j * LANES) - splat(mean));
    const float scale = 1.0f / __builtin_sqrtf(by_halves_of(squares) / m->count + eps);
    if (stats) {
        stats[0] = mean;
        stats[1] = scale;
    }
    ALONG(m)
    {
        const ptrdiff_t i = c + j * LANES;
        /* Chosen before, so that the product and the sum stand side by side and are rounded once. */
        const vector a = gamma ? splat(scale) * load(gamma + i) : splat(scale);
        const vector b = beta ? load(beta + i) : (vector){0};
        store(y + i, (load(x + i) - splat(mean)) * a + b);
    }
}

void KERNEL(norm)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    const struct norm m = norm_of(p);
    float *y = operand[0], *stats = operand[1];
    const float *x = operand[2], *gamma = operand[3], *beta = operand[4];
    for (ptrdiff_t i = 0; in_rows(&m) && i < p[NORM_N] * m.groups; i++) {
        const ptrdiff_t at = i * m.group, c = i % m.groups * m.group;
        norm_row(&m, float_of(p[NORM_EPS]), y + at, stats ? stats + 2 * i : NULL, x + at, gamma ? gamma + c : NULL,
                 beta ? beta + c : NULL);
    }
    for (ptrdiff_t n = 0; !in_rows(&m) && n < p[NORM_N]; n++)
        for (ptrdiff_t c = 0; c < m.channels; c += m.span) {
            const ptrdiff_t at = n * m.rows * m.channels + c;
            norm_span(&m, float_of(p[NORM_EPS]), y + at, stats ? stats + 2 * (n * m.groups + c / m.group) : NULL,
                      x + at, gamma ? gamma + c : NULL, beta ? beta + c : NULL, smaller(m.span, m.channels - c));
        }
}

/* ---- Gradient ------------------------------------------------------------------------------------------ */

/* gx = g * a + (x - mean) * b + d (+ what gx held), each a channel's; gx may be g. */
static void denormalise(const struct norm *m, float *gx, const float *g, const float *x, const float *mean,
                        const float *a, const float *b, const float *d, ptrdiff_t count, bool add)
{
    for (ptrdiff_t r = 0; r < m->rows; r++, x += m->channels, g += m->channels, gx += m->channels) {
        ptrdiff_t c = 0;
        for (; c + LANES <= count; c += LANES) {
            const vector sum = load(g + c) * load(a + c) + ((load(x + c) - load(mean + c)) * load(b + c) + load(d + c));
            store(gx + c, add ? sum + load(gx + c) : sum);
        }
        for (; c < count; c++) {
            const float sum = g[c] * a[c] + ((x[c] - mean[c]) * b[c] + d[c]);
            gx[c] = add ? sum + gx[c] : sum;
        }
    }
}

struct norm_gradient {
    float *ggamma, *gbeta, *gx;
    const float *g, *x, *stats, *gamma;
    bool add_gx, add; /* to gx; to ggamma and gbeta */
};

static void give(float *to, float value, bool add)
{
    *to = add ? *to + value : value;
}

static void norm_gradient_span(const struct norm *m, const struct norm_gradient *s, ptrdiff_t width)
{
    block direct, product, mean, a, b, d, directs, products;
    float sixteen[2][PANEL];
    EACH_BLOCK(m, width, at, count)
    {
        spread(m, mean, s->stats, 2, at, count);
        spread(m, a, s->stats + 1, 2, at, count);
        sum_values(direct, m->rows, m->channels, count, s->g + at);
        sum_products(product, m->rows, m->channels, count, s->g + at, s->x + at, mean);
        for (ptrdiff_t c = 0; c < count; c++) {
            product[c] *= a[c];
            if (s->ggamma)
                give(s->ggamma + at + c, product[c], s->add);
            if (s->gbeta)
                give(s->gbeta + at + c, direct[c], s->add);
            if (s->gamma) {
                direct[c] *= s->gamma[at + c];
                product[c] *= s->gamma[at + c];
            }
        }
        fold(m, directs, sixteen[0], direct, at, count);
        fold(m, products, sixteen[1], product, at, count);
    }
    if (!s->gx)
        return;
    EACH_BLOCK(m, width, at, count)
    {
        spread(m, mean, s->stats, 2, at, count);
        spread(m, a, s->stats + 1, 2, at, count);
        spread(m, d, directs, 1, at, count);
        spread(m, b, products, 1, at, count);
        for (ptrdiff_t c = 0; c < count; c++) {
            const float scale = a[c];
            d[c] = -scale * (d[c] / m->count);
            b[c] = -scale * (b[c] / m->count) * scale;
            a[c] = s->gamma ? scale * s->gamma[at + c] : scale;
        }
        denormalise(m, s->gx + at, s->g + at, s->x + at, mean, a, b, d, count, s->add_gx);
    }
}

static void norm_gradient_row(const struct norm *m, const struct norm_gradient *s)
{
    const vector mean = splat(s->stats[0]);
    const float scale = s->stats[1];
    vector direct[PANEL_VECTORS] = {{0}}, product[PANEL_VECTORS] = {{0}};
    ALONG(m)
    {
        const ptrdiff_t i = c + j * LANES;
        const vector g = load(s->g + i), p = g * (load(s->x + i) - mean) * splat(scale);
        if (s->ggamma)
            store(s->ggamma + i, s->add ? load(s->ggamma + i) + p : p);
        if (s->gbeta)
            store(s->gbeta + i, s->add ? load(s->gbeta + i) + g : g);
        const vector by = s->gamma ? load(s->gamma + i) : splat(1);
        direct[j] += g * by;
        product[j] += p * by;
    }
    if (!s->gx)
        return;
    const float d = -scale * (by_halves_of(direct) / m->count);
    const float b = -scale * (by_halves_of(product) / m->count) * scale;
    ALONG(m)
    {
        const ptrdiff_t i = c + j * LANES;
        const vector a = s->gamma ? splat(scale) * load(s->gamma + i) : splat(scale);
        const vector sum = load(s->g + i) * a + ((load(s->x + i) - mean) * splat(b) + splat(d));
        store(s->gx + i, s->add_gx ? sum + load(s->gx + i) : sum);
    }
}

/* A vector's padding is zero, whatever it held. */
static void pad(float *vector_of, ptrdiff_t channels)
{
    if (vector_of)
        memset(vector_of + channels, 0, (size_t)(up(channels, PANEL) - channels) * sizeof(float));
}

void KERNEL(norm_gradient)(const int32_t *p, void *const *operand, bool add)
{
    const struct norm m = norm_of(p);
    const float *gamma = operand[6];
    pad(operand[0], m.channels);
    pad(operand[1], m.channels);
    const ptrdiff_t span = in_rows(&m) ? m.group : m.span;
    for (ptrdiff_t n = 0; n < p[NORM_N]; n++)
        for (ptrdiff_t c = 0; c < m.channels; c += span) {
            const ptrdiff_t at = n * m.rows * m.channels + c;
            const struct norm_gradient s = {
                .ggamma = operand[0] ? (float *)operand[0] + c : NULL,
                .gbeta = operand[1] ? (float *)operand[1] + c : NULL,
                .gx = operand[2] ? (float *)operand[2] + at : NULL,
                .g = (const float *)operand[3] + at, .x = (const float *)operand[4] + at,
                .stats = (const float *)operand[5] + 2 * (n * m.groups + c / m.group),
                .gamma = gamma ? gamma + c : NULL, .add_gx = p[NORM_ADD] != 0, .add = add || n > 0,
            };
            if (in_rows(&m))
                norm_gradient_row(&m, &s);
            else
                norm_gradient_span(&m, &s, smaller(span, m.channels - c));
        }
}
