/* Pooling, channels last: every tap of a window is a run over the channels.
 *
 * The verifier has made sure that padding is smaller than the window, so every window has a tap
 * inside the image. Taps run kh, kw ascending; gradients that meet add in the order of the windows. */
#include "kernels.h"
#include "vector.h"

struct window {
    ptrdiff_t top, left;               /* of tap (0, 0); may lie in the padding */
    ptrdiff_t kh0, kh1, kw0, kw1;      /* the taps inside the image */
    ptrdiff_t out;                     /* where its channels begin in the smaller image */
};

static struct window window_at(const int32_t *p, ptrdiff_t n, ptrdiff_t oh, ptrdiff_t ow)
{
    struct window w;
    w.top = oh * p[P_SH] - p[P_PH];
    w.left = ow * p[P_SW] - p[P_PW];
    w.kh0 = larger(0, -w.top);
    w.kw0 = larger(0, -w.left);
    w.kh1 = smaller(p[P_KH], p[P_H] - w.top);
    w.kw1 = smaller(p[P_KW], p[P_W] - w.left);
    w.out = ((n * p[POOL_OH] + oh) * p[POOL_OW] + ow) * p[P_C];
    return w;
}

/* Where the channels of a tap begin in the larger image. */
static ptrdiff_t tap_at(const int32_t *p, ptrdiff_t n, const struct window *w, ptrdiff_t kh, ptrdiff_t kw)
{
    return ((n * p[P_H] + w->top + kh) * p[P_W] + w->left + kw) * p[P_C];
}

#define EACH_WINDOW(p, w)                                                                          \
    for (ptrdiff_t n = 0; n < (p)[P_N]; n++)                                                       \
        for (ptrdiff_t oh = 0; oh < (p)[POOL_OH]; oh++)                                            \
            for (ptrdiff_t ow = 0; ow < (p)[POOL_OW]; ow++)                                        \
                for (struct window w = window_at(p, n, oh, ow), *once = &w; once; once = NULL)

#define EACH_TAP(w)                                                                                \
    for (ptrdiff_t kh = (w).kh0; kh < (w).kh1; kh++)                                               \
        for (ptrdiff_t kw = (w).kw0; kw < (w).kw1; kw++)

static float *zeroed_image(const int32_t *p, float *image)
{
    memset(image, 0, (size_t)p[P_N] * p[P_H] * p[P_W] * p[P_C] * sizeof(float));
    return image;
}

/* A larger value wins, and so does the first NaN: it is never hidden. */
static void larger_of(float *restrict best, uint8_t *restrict index, const float *restrict x, ptrdiff_t channels,
                      uint8_t tap)
{
    for (ptrdiff_t c = 0; c < channels; c++) {
        const bool wins = (x[c] > best[c]) | ((x[c] != x[c]) & (best[c] == best[c]));
        best[c] = wins ? x[c] : best[c];
        index[c] = wins ? tap : index[c];
    }
}

static void larger_value(float *restrict best, const float *restrict x, ptrdiff_t channels)
{
    for (ptrdiff_t c = 0; c < channels; c++) {
        const bool wins = (x[c] > best[c]) | ((x[c] != x[c]) & (best[c] == best[c]));
        best[c] = wins ? x[c] : best[c];
    }
}

void KERNEL(max_pool)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    float *y = operand[0];
    uint8_t *index = operand[1];
    const float *x = operand[2];
    const ptrdiff_t channels = p[P_C];
    EACH_WINDOW(p, w)
    {
        float *best = y + w.out;
        memcpy(best, x + tap_at(p, n, &w, w.kh0, w.kw0), (size_t)channels * sizeof(float));
        if (index)
            memset(index + w.out, (int)(w.kh0 * p[P_KW] + w.kw0), (size_t)channels);
        /* The first tap meets itself and changes nothing. */
        EACH_TAP(w)
        {
            const float *tap = x + tap_at(p, n, &w, kh, kw);
            if (index)
                larger_of(best, index + w.out, tap, channels, (uint8_t)(kh * p[P_KW] + kw));
            else
                larger_value(best, tap, channels);
        }
    }
}

/* The index is data and may hold anything: it is compared with the taps that exist, never used as an
 * address. */
static void give_to(float *restrict gx, const float *restrict g, const uint8_t *restrict index,
                    const float *restrict gate, ptrdiff_t channels, uint8_t tap)
{
    if (gate)
        for (ptrdiff_t c = 0; c < channels; c++)
            gx[c] += ((index[c] == tap) & !(gate[c] <= 0)) ? g[c] : 0.0f;
    else
        for (ptrdiff_t c = 0; c < channels; c++)
            gx[c] += index[c] == tap ? g[c] : 0.0f;
}

void KERNEL(max_pool_gradient)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    float *gx = zeroed_image(p, operand[0]);
    const float *g = operand[1];
    const uint8_t *index = operand[2];
    const float *gate = operand[3];
    EACH_WINDOW(p, w)
    EACH_TAP(w)
    give_to(gx + tap_at(p, n, &w, kh, kw), g + w.out, index + w.out, gate ? gate + w.out : NULL, p[P_C],
            (uint8_t)(kh * p[P_KW] + kw));
}

static float taps_counted(const int32_t *p, const struct window *w)
{
    if (p[POOL_COUNT_PADDING])
        return (float)((ptrdiff_t)p[P_KH] * p[P_KW]);
    return (float)((w->kh1 - w->kh0) * (w->kw1 - w->kw0));
}

static void plus(float *restrict y, const float *restrict x, ptrdiff_t channels)
{
    for (ptrdiff_t c = 0; c < channels; c++)
        y[c] += x[c];
}

static void plus_share(float *restrict y, const float *restrict x, ptrdiff_t channels, float count)
{
    for (ptrdiff_t c = 0; c < channels; c++)
        y[c] += x[c] / count;
}

void KERNEL(average_pool)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    float *y = operand[0];
    const float *x = operand[1];
    const ptrdiff_t channels = p[P_C];
    EACH_WINDOW(p, w)
    {
        float *mean = y + w.out;
        memset(mean, 0, (size_t)channels * sizeof(float));
        EACH_TAP(w)
        plus(mean, x + tap_at(p, n, &w, kh, kw), channels);
        const float count = taps_counted(p, &w);
        for (ptrdiff_t c = 0; c < channels; c++)
            mean[c] /= count;
    }
}

void KERNEL(average_pool_gradient)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    float *gx = zeroed_image(p, operand[0]);
    const float *g = operand[1];
    EACH_WINDOW(p, w)
    {
        const float count = taps_counted(p, &w);
        EACH_TAP(w)
        plus_share(gx + tap_at(p, n, &w, kh, kw), g + w.out, p[P_C], count);
    }
}
