/* Pooling, channels last: every tap of a window is a run over the channels.
 *
 * The verifier has made sure that padding is smaller than the window, so every window has a tap
 * inside the image. Taps run kh, kw ascending; gradients that meet add in the order of the windows. */
#include "kernels.h"
#include "vector.h"

#if defined(__AVX2__) && !defined(TACIT_LANES) && !defined(__clang__)
#include <immintrin.h>
#define TOLD
#endif

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

/* A byte for each lane. */
typedef uint8_t octets __attribute__((vector_size(LANES)));

/* Bytes as integers. gcc converts them lane by lane where it is not told. */
static inline integers widened(const uint8_t *from)
{
#if defined(TOLD) && defined(__AVX512F__)
    return (integers)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i_u *)from));
#elif defined(TOLD)
    return (integers)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i_u *)from));
#else
    octets narrow;
    memcpy(&narrow, from, sizeof narrow);
    return __builtin_convertvector(narrow, integers);
#endif
}

/* A larger value wins, and so does the first NaN: it is never hidden. Of one window, the channels of a vector or a
 * single one; the first tap meets itself and changes nothing. */
static void largest(const int32_t *p, const struct window *w, const float *first, ptrdiff_t row, float *best_of,
                    uint8_t *index)
{
    vector best = load(first);
    integers winner = (integers){0} + (int32_t)(w->kh0 * p[P_KW] + w->kw0);
    EACH_TAP(*w)
    {
        const vector x = load(first + (kh - w->kh0) * row + (kw - w->kw0) * p[P_C]);
        const integers wins = (integers)(x > best) | ((integers)(x != x) & (integers)(best == best));
        best = select(wins, x, best);
        winner = (wins & ((integers){0} + (int32_t)(kh * p[P_KW] + kw))) | (~wins & winner);
    }
    store(best_of, best);
    if (index) {
        const octets narrow = __builtin_convertvector(winner, octets);
        memcpy(index, &narrow, sizeof narrow);
    }
}

static void largest_one(const int32_t *p, const struct window *w, const float *first, ptrdiff_t row, float *best_of,
                        uint8_t *index)
{
    float best = *first;
    uint8_t winner = (uint8_t)(w->kh0 * p[P_KW] + w->kw0);
    EACH_TAP(*w)
    {
        const float x = first[(kh - w->kh0) * row + (kw - w->kw0) * p[P_C]];
        const bool wins = (x > best) | ((x != x) & (best == best));
        best = wins ? x : best;
        winner = wins ? (uint8_t)(kh * p[P_KW] + kw) : winner;
    }
    *best_of = best;
    if (index)
        *index = winner;
}

void KERNEL(max_pool)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    float *y = operand[0];
    uint8_t *index = operand[1];
    const float *x = operand[2];
    const ptrdiff_t channels = p[P_C], row = (ptrdiff_t)p[P_W] * channels;
    EACH_WINDOW(p, w)
    {
        const float *first = x + tap_at(p, n, &w, w.kh0, w.kw0);
        uint8_t *winner = index ? index + w.out : NULL;
        ptrdiff_t c = 0;
        for (; c + LANES <= channels; c += LANES)
            largest(p, &w, first + c, row, y + w.out + c, winner ? winner + c : NULL);
        for (; c < channels; c++)
            largest_one(p, &w, first + c, row, y + w.out + c, winner ? winner + c : NULL);
    }
}

/* The index is data and may hold anything: it is compared with the taps that exist, never used as an
 * address. */
static void give_to(float *restrict gx, const float *restrict g, const uint8_t *restrict index,
                    const float *restrict gate, ptrdiff_t channels, uint8_t tap)
{
    ptrdiff_t c = 0;
    for (; c + LANES <= channels; c += LANES) {
        integers given = (integers)(widened(index + c) == (int32_t)tap);
        if (gate)
            given &= ~(integers)(load(gate + c) <= 0);
        store(gx + c, load(gx + c) + (vector)(given & (integers)load(g + c)));
    }
    for (; c < channels; c++)
        gx[c] += (index[c] == tap && !(gate && gate[c] <= 0)) ? g[c] : 0.0f;
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
