/* Convolution where every channel is a group of its own: 16 channels at a time, nothing copied.
 *
 * Forward and input gradient are one thing: a run of pixels that see the same taps, each tap a place in
 * the other image and in the panel. Taps outside the image are left out, which adds the same as zeros. */
#include "kernels.h"
#include "vector.h"

struct shape {
    ptrdiff_t n, h, w, c, kh, kw, sh, sw, ph, pw, dh, dw, oh, ow;
};

static struct shape shape_of(const int32_t *p)
{
    return (struct shape){p[P_N],  p[P_H],  p[P_W],  p[P_C],     p[P_KH],    p[P_KW],    p[P_SH],
                          p[P_SW], p[P_PH], p[P_PW], p[CONV_DH], p[CONV_DW], p[CONV_OH], p[CONV_OW]};
}

/* y[pixel][c] = act(sum over taps of x[pixel + tap][c] * w[c], + bias, + what y held) */
struct run {
    const float *x;
    ptrdiff_t x_step;
    const ptrdiff_t *tap, *weight; /* where each tap stands in x, from the pixel, and in a panel */
    ptrdiff_t taps;
    const float *w;                /* panels */
    ptrdiff_t w_step;              /* from panel to panel */
    float *y;
    ptrdiff_t y_step, channels;
    const float *bias;             /* or NULL */
    bool add, relu;
};

static inline vector finished(vector sum, const float *bias, const float *before, bool act)
{
    if (bias)
        sum += load(bias);
    if (before)
        sum += load(before);
    return act ? relu(sum) : sum;
}

/* PIXELS pixels by 16 channels from `c` on. */
#define RUN_TILE(PIXELS)                                                                           \
    static void run_tile_##PIXELS(const struct run *r, ptrdiff_t c)                                \
    {                                                                                              \
        enum { V = PANEL_VECTORS };                                                                \
        const float *x = r->x + c, *w = r->w + c / PANEL * r->w_step;                              \
        vector sum[PIXELS][V];                                                                     \
        UNROLL for (int i = 0; i < (PIXELS); i++)                                                  \
            UNROLL for (int j = 0; j < V; j++) sum[i][j] = (vector){0};                            \
        for (ptrdiff_t t = 0; t < r->taps; t++) {                                                  \
            const float *at = x + r->tap[t], *tap = w + r->weight[t];                              \
            vector b[V];                                                                           \
            UNROLL for (int j = 0; j < V; j++) b[j] = load(tap + j * LANES);                       \
            UNROLL for (int i = 0; i < (PIXELS); i++)                                              \
                UNROLL for (int j = 0; j < V; j++)                                                 \
                    sum[i][j] += load(at + i * r->x_step + j * LANES) * b[j];                      \
        }                                                                                          \
        UNROLL for (int i = 0; i < (PIXELS); i++)                                                  \
            UNROLL for (int j = 0; j < V; j++) {                                                   \
                float *y = r->y + i * r->y_step + c + j * LANES;                                   \
                const float *bias = r->bias ? r->bias + c + j * LANES : NULL;                      \
                store(y, finished(sum[i][j], bias, r->add ? y : NULL, r->relu));                   \
            }                                                                                      \
    }

#if defined(__AVX__) || defined(__aarch64__)
enum { MOST_PIXELS = 4 };
#else
enum { MOST_PIXELS = 2 };
#endif
RUN_TILE(1)
#if defined(__AVX__) || defined(__aarch64__)
RUN_TILE(4)
#define run_tile_most run_tile_4
#else
RUN_TILE(2)
#define run_tile_most run_tile_2
#endif

/* One channel of one pixel: what is left over beside whole panels. */
static void run_one(const struct run *r, ptrdiff_t c)
{
    const float *x = r->x + c, *w = r->w + c / PANEL * r->w_step + c % PANEL;
    float sum = 0;
    for (ptrdiff_t t = 0; t < r->taps; t++)
        sum += x[r->tap[t]] * w[r->weight[t]];
    if (r->bias)
        sum += r->bias[c];
    if (r->add)
        sum += r->y[c];
    r->y[c] = r->relu && sum <= 0 ? 0 : sum;
}

static void play_run(struct run r, ptrdiff_t pixels)
{
    while (pixels > 0) {
        const ptrdiff_t count = pixels >= MOST_PIXELS ? MOST_PIXELS : 1;
        ptrdiff_t c = 0;
        for (; c + PANEL <= r.channels; c += PANEL)
            if (count > 1)
                run_tile_most(&r, c);
            else
                run_tile_1(&r, c);
        for (ptrdiff_t i = 0; i < count; i++) {
            for (ptrdiff_t rest = c; rest < r.channels; rest++)
                run_one(&r, rest);
            r.x += r.x_step;
            r.y += r.y_step;
        }
        pixels -= count;
    }
}

/* Outputs whose tap at `k` (dilation included) lies inside: from `first`, up to before `end`. */
struct span {
    ptrdiff_t first, end;
};

static struct span inside(ptrdiff_t k, ptrdiff_t padding, ptrdiff_t stride, ptrdiff_t side, ptrdiff_t outputs)
{
    const ptrdiff_t first = k < padding ? parts(padding - k, stride) : 0;
    const ptrdiff_t end = k - padding < side ? smaller(outputs, (side - 1 + padding - k) / stride + 1) : 0;
    return (struct span){first, larger(first, end)};
}

/* ---- Forward ------------------------------------------------------------------------------------ */

/* Output columns [from, to) of one row, in runs that see the same taps. */
static void forward_row(struct run r, const struct shape *z, const float *image, float *y, ptrdiff_t oh)
{
    ptrdiff_t tap[MOST_TAPS], weight[MOST_TAPS];
    const ptrdiff_t top = oh * z->sh - z->ph;
    const struct span all = {
        smaller(z->ow, parts(z->pw, z->sw)),
        inside((z->kw - 1) * z->dw, z->pw, z->sw, z->w, z->ow).end,
    };
    r.tap = tap;
    r.weight = weight;
    for (ptrdiff_t ow = 0, count; ow < z->ow; ow += count) {
        count = ow == all.first && all.end > ow ? all.end - ow : 1;
        const ptrdiff_t left = ow * z->sw - z->pw;
        r.taps = 0;
        for (ptrdiff_t kh = 0; kh < z->kh; kh++)
            for (ptrdiff_t kw = 0; kw < z->kw; kw++) {
                const ptrdiff_t h = top + kh * z->dh, w = left + kw * z->dw;
                if (h < 0 || h >= z->h || w < 0 || w >= z->w)
                    continue;
                tap[r.taps] = (h * z->w + w) * z->c;
                weight[r.taps++] = (kh * z->kw + kw) * PANEL;
            }
        r.x = image;
        r.y = y + ow * z->c;
        play_run(r, count);
    }
}

/* Each sum takes kh, kw ascending; then the bias, then what y held, then act. */
void KERNEL(depthwise)(const int32_t *p, void *const *operand, bool add)
{
    const struct shape z = shape_of(p);
    const struct run r = {
        .x_step = z.sw * z.c, .w = operand[3], .w_step = z.kh * z.kw * PANEL, .y_step = z.c, .channels = z.c,
        .bias = operand[4], .add = add, .relu = p[CONV_ACT] == 1,
    };
    for (ptrdiff_t n = 0; n < z.n; n++)
        for (ptrdiff_t oh = 0; oh < z.oh; oh++)
            forward_row(r, &z, (const float *)operand[2] + n * z.h * z.w * z.c,
                        (float *)operand[0] + (n * z.oh + oh) * z.ow * z.c, oh);
}

/* ---- Input gradient ------------------------------------------------------------------------------ */

/* The output that reaches pixel `at` by a tap at `k` (dilation included), or -1. */
static ptrdiff_t reached_by(ptrdiff_t at, ptrdiff_t k, ptrdiff_t padding, ptrdiff_t stride, ptrdiff_t outputs)
{
    const ptrdiff_t from = at + padding - k;
    return from >= 0 && from % stride == 0 && from / stride < outputs ? from / stride : -1;
}

/* The taps of pixel (h, w) in g: kh ascending, then ow ascending. */
static ptrdiff_t taps_of(ptrdiff_t *tap, ptrdiff_t *weight, const struct shape *z, ptrdiff_t h, ptrdiff_t w)
{
    ptrdiff_t taps = 0;
    for (ptrdiff_t kh = 0; kh < z->kh; kh++) {
        const ptrdiff_t oh = reached_by(h, kh * z->dh, z->ph, z->sh, z->oh);
        for (ptrdiff_t kw = z->kw - 1; oh >= 0 && kw >= 0; kw--) {
            const ptrdiff_t ow = reached_by(w, kw * z->dw, z->pw, z->sw, z->ow);
            if (ow < 0)
                continue;
            tap[taps] = (oh * z->ow + ow) * z->c;
            weight[taps++] = (kh * z->kw + kw) * PANEL;
        }
    }
    return taps;
}

/* Columns of one phase that see all of the phase's taps, counted in strides from the phase. */
static struct span full_columns(const struct shape *z, ptrdiff_t phase)
{
    struct span span = {0, parts(z->w - phase, z->sw)};
    for (ptrdiff_t kw = 0; kw < z->kw; kw++) {
        const ptrdiff_t from = phase + z->pw - kw * z->dw;
        if (from % z->sw != 0)
            continue;
        /* ow = from / stride + column must lie in 0..OW-1 */
        span.first = larger(span.first, -(from / z->sw));
        span.end = smaller(span.end, z->ow - from / z->sw);
    }
    span.first = smaller(span.first, parts(z->w - phase, z->sw));
    return (struct span){span.first, larger(span.first, span.end)};
}

/* Each sum takes kh ascending, then ow ascending. */
void KERNEL(depthwise_input_gradient)(const int32_t *p, void *const *operand, bool add)
{
    const struct shape z = shape_of(p);
    ptrdiff_t tap[MOST_TAPS], weight[MOST_TAPS];
    struct run r = {
        .x_step = z.c, .tap = tap, .weight = weight, .w = operand[3], .w_step = z.kh * z.kw * PANEL,
        .y_step = z.sw * z.c, .channels = z.c, .add = add,
    };
    for (ptrdiff_t n = 0; n < z.n; n++)
        for (ptrdiff_t h = 0; h < z.h; h++)
            for (ptrdiff_t phase = 0; phase < smaller(z.sw, z.w); phase++) {
                const struct span full = full_columns(&z, phase);
                const ptrdiff_t columns = parts(z.w - phase, z.sw);
                for (ptrdiff_t a = 0, count; a < columns; a += count) {
                    count = a == full.first && full.end > a ? full.end - a : 1;
                    const ptrdiff_t w = phase + a * z.sw;
                    r.taps = taps_of(tap, weight, &z, h, w);
                    r.x = (const float *)operand[2] + n * z.oh * z.ow * z.c;
                    r.y = (float *)operand[0] + ((n * z.h + h) * z.w + w) * z.c;
                    play_run(r, count);
                }
            }
}

/* ---- Weight gradient ------------------------------------------------------------------------------- */

/* One tap of some channels: sum over the pixels of one image that it sees. */
struct sums {
    const float *x, *g;
    ptrdiff_t high, wide, x_down, g_down, x_step, g_step;
    float *gw;
    ptrdiff_t gw_step; /* from panel to panel */
    bool add;
};

#define SUMS_TILE(PANELS)                                                                          \
    static void sums_tile_##PANELS(const struct sums *s, ptrdiff_t c)                              \
    {                                                                                              \
        enum { V = (PANELS) * PANEL_VECTORS };                                                     \
        vector sum[V];                                                                             \
        UNROLL for (int j = 0; j < V; j++) sum[j] = (vector){0};                                   \
        for (ptrdiff_t h = 0; h < s->high; h++) {                                                  \
            const float *x = s->x + h * s->x_down + c, *g = s->g + h * s->g_down + c;              \
            for (ptrdiff_t w = 0; w < s->wide; w++, x += s->x_step, g += s->g_step)                \
                UNROLL for (int j = 0; j < V; j++) sum[j] += load(x + j * LANES) * load(g + j * LANES); \
        }                                                                                          \
        UNROLL for (int j = 0; j < V; j++) {                                                       \
            float *gw = s->gw + (c / PANEL + j / PANEL_VECTORS) * s->gw_step + (j % PANEL_VECTORS) * LANES; \
            store(gw, s->add ? sum[j] + load(gw) : sum[j]);                                        \
        }                                                                                          \
    }

SUMS_TILE(1)
SUMS_TILE(2)

/* What is left over beside whole panels; the panel's padding stays or becomes zero. */
static void sums_rest(const struct sums *s, ptrdiff_t c, ptrdiff_t channels)
{
    float *gw = s->gw + c / PANEL * s->gw_step;
    for (ptrdiff_t i = 0; i < PANEL; i++) {
        float sum = 0;
        for (ptrdiff_t h = 0; c + i < channels && h < s->high; h++)
            for (ptrdiff_t w = 0; w < s->wide; w++)
                sum += s->x[h * s->x_down + w * s->x_step + c + i] * s->g[h * s->g_down + w * s->g_step + c + i];
        gw[i] = s->add ? sum + gw[i] : sum;
    }
}

/* One tap over one image: places and sizes. */
static struct sums tap_sums(const struct shape *z, const float *x, const float *g, float *gw, ptrdiff_t kh, ptrdiff_t kw)
{
    const struct span rows = inside(kh * z->dh, z->ph, z->sh, z->h, z->oh);
    const struct span columns = inside(kw * z->dw, z->pw, z->sw, z->w, z->ow);
    struct sums s = {
        .wide = columns.end - columns.first,
        .x_down = z->sh * z->w * z->c, .g_down = z->ow * z->c, .x_step = z->sw * z->c, .g_step = z->c,
        .gw = gw + (kh * z->kw + kw) * PANEL, .gw_step = z->kh * z->kw * PANEL,
    };
    s.high = s.wide > 0 ? rows.end - rows.first : 0;
    if (s.high > 0) {
        const ptrdiff_t top = rows.first * z->sh - z->ph + kh * z->dh;
        const ptrdiff_t left = columns.first * z->sw - z->pw + kw * z->dw;
        s.x = x + (top * z->w + left) * z->c;
        s.g = g + (rows.first * z->ow + columns.first) * z->c;
    }
    return s;
}

/* Each sum takes the pixels oh, ow of one image, ascending; the images' sums are added in order. The taps
 * come inside the channels, so that an image's part of them is read from near memory. */
void KERNEL(depthwise_weight_gradient)(const int32_t *p, void *const *operand, bool add)
{
    const struct shape z = shape_of(p);
    for (ptrdiff_t n = 0; n < z.n; n++)
        for (ptrdiff_t c = 0; c < z.c; c += 2 * PANEL)
            for (ptrdiff_t kh = 0; kh < z.kh; kh++)
                for (ptrdiff_t kw = 0; kw < z.kw; kw++) {
                    struct sums s = tap_sums(&z, (const float *)operand[2] + n * z.h * z.w * z.c,
                                             (const float *)operand[3] + n * z.oh * z.ow * z.c, operand[0], kh, kw);
                    s.add = add || n > 0;
                    const ptrdiff_t left = z.c - c;
                    if (left >= 2 * PANEL)
                        sums_tile_2(&s, c);
                    else if (left >= PANEL)
                        sums_tile_1(&s, c);
                    if (left % PANEL != 0 && left < 2 * PANEL)
                        sums_rest(&s, c + left / PANEL * PANEL, z.c);
                }
}
