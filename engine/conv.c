/* Convolution: forward, input gradient, weight gradient. A Linear is a convolution of 1x1 pixels.
 *
 * All three come down to a tile: a few pixels (or weight rows) by one or more panels of 16 outputs,
 * with the sums in registers until they are done. The order of every sum is part of the format and
 * the same for any tile and any vector width; each function says what it is.
 *
 * Nothing is copied but what padding needs: forward and input gradient keep a ring of as many rows as
 * the kernel reaches in scratch, zero at both ends, so a tap row is KW * C values in one piece. Weights
 * in fewer bits are widened a piece at a time, for as many pixels as sums can be held for. With
 * groups or dilation a tap is the channels of a group. Where every channel is a group: depthwise.c. */
#include "kernels.h"
#include "weights.h"

/* ---- Tiles: pixels by panels ---------------------------------------------------------------- */

/* y[pixel] = act(sum over taps and their values of x * w, + bias, + what y held) for a row of pixels. */
struct strip {
    const float *x;       /* the first pixel */
    ptrdiff_t x_step;     /* from pixel to pixel */
    const ptrdiff_t *tap; /* where each tap's values begin, from the pixel */
    ptrdiff_t taps;
    ptrdiff_t length;     /* values of a tap, in one piece */
    const float *w;       /* panels: [taps][length][16] */
    ptrdiff_t w_step;     /* from panel to panel */
    struct weights from;  /* where they stand in fewer bits: then `w` is not read, but what follows `from_at` */
    ptrdiff_t from_at;
    float *y;
    ptrdiff_t y_step;
    ptrdiff_t width;      /* outputs from here on; the last panel may be partly used */
    const float *bias;    /* or NULL */
    bool add, relu;
    float *held;          /* sums of a part of the taps, [pixels][16]: */
    bool begun, more;     /* those it goes on from, and that it leaves there instead of finishing */
};

static inline vector finished(vector sum, const float *bias, const float *before, bool act)
{
    if (bias)
        sum += load(bias);
    if (before)
        sum += load(before);
    return act ? relu(sum) : sum;
}

/* Writes a tile whose last panel is not full; `sums` has `columns` floats a pixel. */
static void finish_partly(const struct strip *s, const float *sums, ptrdiff_t pixels, ptrdiff_t columns)
{
    for (ptrdiff_t i = 0; i < pixels; i++)
        for (ptrdiff_t j = 0; j < s->width; j++) {
            float *y = s->y + i * s->y_step + j;
            float sum = sums[i * columns + j];
            if (s->bias)
                sum += s->bias[j];
            if (s->add)
                sum += *y;
            *y = s->relu && sum <= 0 ? 0 : sum;
        }
}

/* A macro and not a function of PIXELS: only arrays of exactly this size stay in registers. Three
 * pixels share a pointer, the others are reached by an index. */
#define TILE(PIXELS, PANELS)                                                                       \
    static void tile_##PIXELS##_##PANELS(const struct strip *s)                                    \
    {                                                                                              \
        enum { V = (PANELS) * PANEL_VECTORS, POINTERS = ((PIXELS) + 2) / 3 };                      \
        const ptrdiff_t step = s->x_step, next = s->w_step;                                        \
        const float *w = s->w;                                                                     \
        vector sum[PIXELS][V];                                                                     \
        UNROLL for (int i = 0; i < (PIXELS); i++)                                                  \
            UNROLL for (int j = 0; j < V; j++)                                                     \
                sum[i][j] = s->begun ? load(s->held + (i * V + j) * LANES) : (vector){0};          \
        for (ptrdiff_t t = 0; t < s->taps; t++) {                                                  \
            const float *x[POINTERS];                                                              \
            UNROLL for (int i = 0; i < POINTERS; i++) x[i] = s->x + s->tap[t] + 3 * i * step;      \
            for (ptrdiff_t k = 0; k < s->length; k++) {                                            \
                vector b[V];                                                                       \
                UNROLL for (int j = 0; j < V; j++)                                                 \
                    b[j] = load(w + (j / PANEL_VECTORS) * next + (j % PANEL_VECTORS) * LANES);     \
                UNROLL for (int i = 0; i < (PIXELS); i++) {                                        \
                    const vector a = splat(x[i / 3][(i % 3) * step]);                              \
                    UNROLL for (int j = 0; j < V; j++) sum[i][j] += a * b[j];                      \
                }                                                                                  \
                UNROLL for (int i = 0; i < POINTERS; i++) x[i]++;                                  \
                w += PANEL;                                                                        \
            }                                                                                      \
        }                                                                                          \
        if (s->more) {                                                                             \
            UNROLL for (int i = 0; i < (PIXELS); i++)                                              \
                UNROLL for (int j = 0; j < V; j++) store(s->held + (i * V + j) * LANES, sum[i][j]); \
        } else if (s->width >= V * LANES) {                                                        \
            UNROLL for (int i = 0; i < (PIXELS); i++)                                              \
                UNROLL for (int j = 0; j < V; j++) {                                               \
                    float *y = s->y + i * s->y_step + j * LANES;                                   \
                    const float *bias = s->bias ? s->bias + j * LANES : NULL;                      \
                    store(y, finished(sum[i][j], bias, s->add ? y : NULL, s->relu));               \
                }                                                                                  \
        } else {                                                                                   \
            float sums[PIXELS][V * LANES];                                                         \
            UNROLL for (int i = 0; i < (PIXELS); i++)                                              \
                UNROLL for (int j = 0; j < V; j++) store(sums[i] + j * LANES, sum[i][j]);          \
            finish_partly(s, sums[0], PIXELS, V * LANES);                                          \
        }                                                                                          \
    }

/* How many pixels fit the registers beside one panel. Fewer pixels take more panels instead, so that
 * enough independent sums are under way. */
#if defined(__AVX512F__)
enum { MOST_PIXELS = 12 };
TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)
TILE(7, 1) TILE(8, 1) TILE(9, 1) TILE(10, 1) TILE(11, 1) TILE(12, 1)
TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2) TILE(5, 2) TILE(6, 2)
TILE(1, 4) TILE(2, 4) TILE(3, 4)
static void (*const ONE_PANEL[])(const struct strip *) = {
    tile_1_1, tile_2_1, tile_3_1, tile_4_1, tile_5_1, tile_6_1,
    tile_7_1, tile_8_1, tile_9_1, tile_10_1, tile_11_1, tile_12_1,
};
static void (*const TWO_PANELS[])(const struct strip *) = {tile_1_2, tile_2_2, tile_3_2, tile_4_2, tile_5_2, tile_6_2};
static void (*const FOUR_PANELS[])(const struct strip *) = {tile_1_4, tile_2_4, tile_3_4};
enum { TWO_PANELS_PIXELS = 6, FOUR_PANELS_PIXELS = 3 };
#elif defined(__AVX__) || defined(__aarch64__)
enum { MOST_PIXELS = 6 };
TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)
TILE(1, 2) TILE(2, 2) TILE(3, 2)
TILE(1, 4)
static void (*const ONE_PANEL[])(const struct strip *) = {tile_1_1, tile_2_1, tile_3_1, tile_4_1, tile_5_1, tile_6_1};
static void (*const TWO_PANELS[])(const struct strip *) = {tile_1_2, tile_2_2, tile_3_2};
static void (*const FOUR_PANELS[])(const struct strip *) = {tile_1_4};
enum { TWO_PANELS_PIXELS = 3, FOUR_PANELS_PIXELS = 1 };
#else
enum { MOST_PIXELS = 3 };
TILE(1, 1) TILE(2, 1) TILE(3, 1)
TILE(1, 2)
static void (*const ONE_PANEL[])(const struct strip *) = {tile_1_1, tile_2_1, tile_3_1};
static void (*const TWO_PANELS[])(const struct strip *) = {tile_1_2};
static void (*const FOUR_PANELS[])(const struct strip *) = {NULL};
enum { TWO_PANELS_PIXELS = 1, FOUR_PANELS_PIXELS = 0 };
#endif

static int panels_at_once(ptrdiff_t pixels, ptrdiff_t width)
{
    if (pixels <= FOUR_PANELS_PIXELS && width > 3 * PANEL)
        return 4;
    if (pixels <= TWO_PANELS_PIXELS && width > PANEL)
        return 2;
    return 1;
}

/* Pixels taken together, so that a panel is read from near memory for all of them. */
enum { BLOCK = 8 * MOST_PIXELS };

/* One, two or four panels of a block of pixels, divided evenly into tiles (14 = 5 + 5 + 4). */
static void play_tiles(struct strip s, ptrdiff_t pixels, int panels)
{
    const ptrdiff_t tiles = parts(pixels, MOST_PIXELS), least = pixels / tiles, one_more = pixels % tiles;
    for (ptrdiff_t t = 0; t < tiles; t++) {
        const ptrdiff_t count = least + (t < one_more);
        if (panels == 4)
            FOUR_PANELS[count - 1](&s);
        else if (panels == 2)
            TWO_PANELS[count - 1](&s);
        else
            ONE_PANEL[count - 1](&s);
        s.x += count * s.x_step;
        s.y += count * s.y_step;
        s.held = s.held ? s.held + count * PANEL : NULL;
    }
}

/* Rows of a panel that are widened at a time: eight kilobytes. */
enum { WIDENED = 128 };

/* One panel of a block of pixels: whole taps, or a part of one, at a time. */
static void play_narrow_panel(const struct strip *s, ptrdiff_t pixels)
{
    float wide[WIDENED * PANEL], held[BLOCK * PANEL];
    struct strip part = *s;
    part.w = wide;
    part.held = held;
    part.begun = false;
    part.length = smaller(s->length, WIDENED);
    ptrdiff_t at = s->from_at;
    for (ptrdiff_t t = 0; t < s->taps; t += part.taps) {
        part.tap = s->tap + t;
        part.taps = smaller(s->taps - t, WIDENED / part.length);
        for (ptrdiff_t k = 0; k < s->length; k += part.length) {
            struct strip piece = part;
            piece.x += k;
            piece.length = smaller(part.length, s->length - k);
            piece.more = t + part.taps < s->taps || k + piece.length < s->length;
            const ptrdiff_t count = piece.taps * piece.length * PANEL;
            widen(wide, &s->from, at, count);
            at += count;
            play_tiles(piece, pixels, 1);
            part.begun = true;
        }
    }
}

/* Plays a strip of any number of pixels, a block of them at a time, panel by panel. */
static void play_strip(struct strip s, ptrdiff_t pixels)
{
    const bool narrow = s.from.number != NUMBER_FLOAT32 && s.taps > 0; /* without taps there is nothing to widen */
    while (pixels > 0) {
        const ptrdiff_t block = smaller(pixels, BLOCK);
        const ptrdiff_t most = parts(block, parts(block, MOST_PIXELS)); /* of a tile */
        const int panels = narrow ? 1 : panels_at_once(most, s.width);
        struct strip column = s;
        while (column.width > 0) {
            const int at_once = column.width > (panels - 1) * PANEL ? panels : 1;
            if (narrow) {
                play_narrow_panel(&column, block);
                column.from_at += column.w_step;
            } else {
                play_tiles(column, block, at_once);
                column.w += at_once * column.w_step;
            }
            column.y += at_once * PANEL;
            column.bias = s.bias ? column.bias + at_once * PANEL : NULL;
            column.width -= at_once * PANEL;
        }
        s.x += block * s.x_step;
        s.y += block * s.y_step;
        pixels -= block;
    }
}

/* ---- The ring of padded rows ------------------------------------------------------------------ */

/* The last rows of an image, each zero-padded at both ends. Row r stands at r mod rows. */
struct ring {
    float *data;
    ptrdiff_t rows, margin, middle; /* floats of padding at an end, floats of a row */
    ptrdiff_t next;                 /* the first row not yet taken */
};

static ptrdiff_t ring_width(const struct ring *ring)
{
    return ring->middle + 2 * ring->margin;
}

static struct ring ring_in(void *scratch, ptrdiff_t rows, ptrdiff_t margin, ptrdiff_t middle)
{
    struct ring ring = {scratch, rows, margin, middle, 0};
    memset(scratch, 0, (size_t)(rows * ring_width(&ring)) * sizeof(float));
    return ring;
}

/* Where row r stands, which may be negative by less than `rows * MOST_SIDE`. */
static ptrdiff_t ring_row(const struct ring *ring, ptrdiff_t r)
{
    return (r + ring->rows * MOST_SIDE) % ring->rows * ring_width(ring);
}

/* Takes the rows up to and including `last`; those outside the image are zero. */
static void ring_advance(struct ring *ring, const float *image, ptrdiff_t image_rows, ptrdiff_t last)
{
    for (; ring->next <= last; ring->next++) {
        float *row = ring->data + ring_row(ring, ring->next) + ring->margin;
        const size_t bytes = (size_t)ring->middle * sizeof(float);
        if (ring->next >= 0 && ring->next < image_rows)
            memcpy(row, image + ring->next * ring->middle, bytes);
        else
            memset(row, 0, bytes);
    }
}

/* ---- Forward ---------------------------------------------------------------------------------- */

/* A convolution's parameters, wide enough to multiply. */
struct shape {
    ptrdiff_t n, h, w, c, kh, kw, sh, sw, ph, pw, dh, dw, groups, oh, ow, o;
    ptrdiff_t group_c, group_o, group_w; /* channels, outputs and panel values of a group */
};

static struct shape shape_of(const int32_t *p)
{
    struct shape z = {p[P_N],  p[P_H],  p[P_W],     p[P_C],     p[P_KH],   p[P_KW],    p[P_SH],    p[P_SW],
                      p[P_PH], p[P_PW], p[CONV_DH], p[CONV_DW], p[CONV_G], p[CONV_OH], p[CONV_OW], p[CONV_O],
                      0,       0,       0};
    z.group_c = z.c / z.groups;
    z.group_o = z.o / z.groups;
    z.group_w = up(z.group_o, PANEL) * z.kh * z.kw * z.group_c;
    return z;
}

static bool pointwise(const struct shape *z)
{
    return z->kh == 1 && z->kw == 1; /* and then without padding: padding is smaller than the kernel */
}

static bool depthwise(const struct shape *z)
{
    return z->groups > 1 && z->groups == z->c && z->groups == z->o;
}

/* Whether a tap row is one piece. */
static bool in_one_piece(const struct shape *z)
{
    return z->groups == 1 && z->dw == 1;
}

/* Where the taps of row `k` begin, which stands at `row`. */
static void place_taps(ptrdiff_t *tap, const struct shape *z, ptrdiff_t k, ptrdiff_t row)
{
    if (in_one_piece(z))
        tap[k] = row;
    else
        for (ptrdiff_t j = 0; j < z->kw; j++)
            tap[k * z->kw + j] = row + j * z->dw * z->c;
}

/* Plays a strip once for each group. */
static void play_groups(struct strip s, const struct shape *z, ptrdiff_t pixels)
{
    for (ptrdiff_t g = 0; g < z->groups; g++) {
        play_strip(s, pixels);
        s.x += z->group_c;
        if (s.from.number == NUMBER_FLOAT32)
            s.w += z->group_w;
        s.from_at += z->group_w;
        s.y += z->group_o;
        s.bias = s.bias ? s.bias + z->group_o : NULL;
    }
}

/* The strip with `count` rows of taps from `first` on: the others lie outside the image and would add zeros.
 * A row is `taps_of_row` taps. */
static struct strip rows_inside(struct strip s, ptrdiff_t first, ptrdiff_t count, ptrdiff_t taps_of_row)
{
    const ptrdiff_t before = first * taps_of_row * s.length * PANEL;
    s.tap += first * taps_of_row;
    s.taps = count * taps_of_row;
    if (s.from.number == NUMBER_FLOAT32)
        s.w += before;
    s.from_at += before;
    return s;
}

/* Each sum begins at zero and takes kh, kw, c ascending; then the bias, then what y held, then act. */
void KERNEL(conv)(const int32_t *p, void *const *operand, bool add)
{
    const struct shape z = shape_of(p);
    if (depthwise(&z)) {
        KERNEL(depthwise)(p, operand, add);
        return;
    }
    const float *x = operand[2];
    const bool whole = in_one_piece(&z);
    ptrdiff_t tap[MOST_TAPS] = {0};
    struct strip s = {
        .x = x, .x_step = z.sw * z.c, .tap = tap, .taps = whole ? z.kh : z.kh * z.kw,
        .length = whole ? z.kw * z.c : z.group_c,
        .w = operand[3], .w_step = z.kh * z.kw * z.group_c * PANEL,
        .from = weights_in(p[CONV_NUMBER], operand[3], z.groups * z.group_w),
        .y = operand[0], .y_step = z.o, .width = z.group_o, .bias = operand[4], .add = add, .relu = p[CONV_ACT] == 1,
    };
    if (pointwise(&z) && z.sh == 1 && z.sw == 1) {
        play_groups(s, &z, z.n * z.h * z.w);
        return;
    }
    const bool padded = z.ph > 0 || z.pw > 0;
    const ptrdiff_t row = z.w * z.c, reach = (z.kh - 1) * z.dh + 1;
    struct ring ring = {0};
    if (padded)
        ring = ring_in(operand[1], reach, z.pw * z.c, row);
    else
        for (ptrdiff_t k = 0; k < z.kh; k++)
            place_taps(tap, &z, k, k * z.dh * row);
    for (ptrdiff_t n = 0; n < z.n; n++) {
        const float *image = x + n * z.h * row;
        ring.next = -z.ph;
        for (ptrdiff_t oh = 0; oh < z.oh; oh++) {
            const ptrdiff_t top = oh * z.sh - z.ph;
            s.x = padded ? ring.data : image + top * row;
            if (padded) {
                /* A stride beyond the kernel leaves rows out. */
                ring.next = larger(ring.next, top);
                ring_advance(&ring, image, z.h, top + reach - 1);
                for (ptrdiff_t k = 0; k < z.kh; k++)
                    place_taps(tap, &z, k, ring_row(&ring, top + k * z.dh));
            }
            const ptrdiff_t first = top < 0 ? parts(-top, z.dh) : 0;
            const ptrdiff_t end = top < z.h ? smaller(z.kh, (z.h - 1 - top) / z.dh + 1) : 0;
            play_groups(rows_inside(s, first, larger(0, end - first), whole ? 1 : z.kw), &z, z.ow);
            s.y += z.ow * z.o;
        }
    }
}

/* ---- Input gradient --------------------------------------------------------------------------- */

/* The taps along one side that reach the pixels of one phase: kernel places first, first + step, ...
 * and, for the phase's first pixel, the output `highest - i * fall` at the i-th of them. */
struct reach {
    ptrdiff_t first, step, count, highest, fall;
};

static struct reach reach_of(ptrdiff_t phase, ptrdiff_t padding, ptrdiff_t stride, ptrdiff_t dilation, ptrdiff_t kernel)
{
    ptrdiff_t common = stride;
    for (ptrdiff_t rest = dilation; rest != 0;) { /* the greatest common divisor */
        const ptrdiff_t next = common % rest;
        common = rest;
        rest = next;
    }
    struct reach reach = {.step = stride / common, .fall = dilation / common};
    while (reach.first < reach.step && (phase + padding - reach.first * dilation) % stride != 0)
        reach.first++;
    if (reach.first < reach.step && reach.first < kernel) {
        reach.count = parts(kernel - reach.first, reach.step);
        reach.highest = (phase + padding - reach.first * dilation) / stride;
    }
    return reach;
}

typedef float four __attribute__((vector_size(16), aligned(4), may_alias));

#ifdef __clang__
#define MIX(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
typedef int32_t four_lanes __attribute__((vector_size(16)));
#define MIX(x, y, ...) __builtin_shuffle(x, y, (four_lanes){__VA_ARGS__})
#endif

/* Four by four floats, rows `step` apart, turned. */
static inline void transpose_4(float *to, const float *from, ptrdiff_t step)
{
    const four a = *(const four *)from, b = *(const four *)(from + step);
    const four c = *(const four *)(from + 2 * step), d = *(const four *)(from + 3 * step);
    const four ab0 = MIX(a, b, 0, 4, 1, 5), ab1 = MIX(a, b, 2, 6, 3, 7);
    const four cd0 = MIX(c, d, 0, 4, 1, 5), cd1 = MIX(c, d, 2, 6, 3, 7);
    *(four *)to = MIX(ab0, cd0, 0, 1, 4, 5);
    *(four *)(to + step) = MIX(ab0, cd0, 2, 3, 6, 7);
    *(four *)(to + 2 * step) = MIX(ab1, cd1, 0, 1, 4, 5);
    *(four *)(to + 3 * step) = MIX(ab1, cd1, 2, 3, 6, 7);
}

/* to[o][lane] = w[at + panel of o][lane][o within the panel], zero beyond the last channel. Weights in fewer
 * bits are widened on the way, 16 channels of a panel at a time. */
static void transpose(float *to, const struct weights *w, ptrdiff_t at, ptrdiff_t outputs, ptrdiff_t channels,
                      ptrdiff_t w_step)
{
    for (ptrdiff_t o = 0; o < outputs; o += PANEL, to += PANEL * PANEL, at += w_step) {
        float wide[PANEL * PANEL];
        const float *from = w->number == NUMBER_FLOAT32 ? (const float *)w->values + at : wide;
        if (from == wide)
            widen(wide, w, at, channels * PANEL);
        const ptrdiff_t count = smaller(PANEL, outputs - o);
        if (count == PANEL && channels == PANEL) {
            for (ptrdiff_t i = 0; i < PANEL; i += 4)
                for (ptrdiff_t j = 0; j < PANEL; j += 4)
                    transpose_4(to + i * PANEL + j, from + j * PANEL + i, PANEL);
            continue;
        }
        for (ptrdiff_t i = 0; i < count; i++)
            for (ptrdiff_t j = 0; j < PANEL; j++)
                to[i * PANEL + j] = j < channels ? from[j * PANEL + i] : 0;
    }
}

/* The weights of one phase for 16 input channels from `c0` on, as a panel whose outputs they are. */
static void transpose_panel(float *to, const struct weights *w, ptrdiff_t at, const struct shape *z,
                            const struct reach *rh, const struct reach *rw, ptrdiff_t c0)
{
    for (ptrdiff_t i = 0; i < rh->count; i++)
        for (ptrdiff_t j = 0; j < rw->count; j++) {
            /* From left to right in g is from right to left in the kernel. */
            const ptrdiff_t kh = rh->first + i * rh->step, kw = rw->first + (rw->count - 1 - j) * rw->step;
            const ptrdiff_t tap = at + ((kh * z->kw + kw) * z->group_c + c0) * PANEL;
            transpose(to, w, tap, z->group_o, smaller(PANEL, z->group_c - c0), z->kh * z->kw * z->group_c * PANEL);
            to += z->group_o * PANEL;
        }
}

/* What the input gradient of some channels of one group works on. */
struct channels {
    const float *g;     /* of all groups */
    ptrdiff_t first_o;  /* where the group's outputs begin in a pixel of g */
    struct weights w;   /* of all groups */
    ptrdiff_t w_at;     /* where the group's begin */
    float *gx;          /* of the first of the channels */
    ptrdiff_t c0, width;
    float *ring, *panels;
    bool add;
};

/* The pixels of one phase. */
static void input_gradient_of_phase(const struct channels *part, const struct shape *z, ptrdiff_t ph, ptrdiff_t pw)
{
    const struct reach rh = reach_of(ph, z->ph, z->sh, z->dh, z->kh), rw = reach_of(pw, z->pw, z->sw, z->dw, z->kw);
    const ptrdiff_t high = parts(z->h - ph, z->sh), wide = parts(z->w - pw, z->sw);
    const ptrdiff_t row = z->ow * z->o, margin = (z->kw - 1) * z->dw * z->o;
    const bool reached = rh.count > 0 && rw.count > 0, whole = in_one_piece(z);
    ptrdiff_t tap[MOST_TAPS] = {0};
    struct strip s = {
        .x_step = z->o, .tap = tap, .taps = whole ? rh.count : rh.count * rw.count,
        .length = whole ? rw.count * z->o : z->group_o,
        .w = part->panels, .w_step = rh.count * rw.count * z->group_o * PANEL,
        .y_step = z->sw * z->c, .width = part->width, .add = part->add,
    };
    for (ptrdiff_t c = 0; reached && c < part->width; c += PANEL)
        transpose_panel(part->panels + c / PANEL * s.w_step, &part->w, part->w_at, z, &rh, &rw, part->c0 + c);
    if (pointwise(z) && z->sh == 1 && z->sw == 1) {
        s.x = part->g + part->first_o;
        s.y = part->gx;
        play_strip(s, z->n * z->h * z->w);
        return;
    }
    struct ring ring = {0};
    if (reached && !pointwise(z))
        ring = ring_in(part->ring, (rh.count - 1) * rh.fall + 1, margin, row);
    for (ptrdiff_t n = 0; n < z->n; n++) {
        ring.next = rh.highest - (rh.count - 1) * rh.fall;
        for (ptrdiff_t a = 0; a < high; a++) {
            s.y = part->gx + ((n * z->h + a * z->sh + ph) * z->w + pw) * z->c;
            if (!reached) {
                for (ptrdiff_t i = 0; !part->add && i < wide; i++)
                    memset(s.y + i * s.y_step, 0, (size_t)part->width * sizeof(float));
                continue;
            }
            if (pointwise(z)) {
                s.x = part->g + (n * z->oh + a) * row + part->first_o;
            } else {
                ring_advance(&ring, part->g + n * z->oh * row, z->oh, a + rh.highest);
                for (ptrdiff_t k = 0; k < rh.count; k++) {
                    const ptrdiff_t at = ring_row(&ring, a + rh.highest - k * rh.fall);
                    if (whole)
                        tap[k] = at;
                    else
                        for (ptrdiff_t j = 0; j < rw.count; j++)
                            tap[k * rw.count + j] = at + j * rw.fall * z->o;
                }
                s.x = ring.data + margin + (rw.highest - (rw.count - 1) * rw.fall) * z->o + part->first_o;
            }
            const ptrdiff_t top = a + rh.highest; /* of g, seen by the first tap; the others see rows above it */
            const ptrdiff_t first = top < z->oh ? 0 : parts(top - z->oh + 1, rh.fall);
            const ptrdiff_t end = top < 0 ? 0 : smaller(rh.count, top / rh.fall + 1);
            play_strip(rows_inside(s, first, larger(0, end - first), whole ? 1 : rw.count), wide);
        }
    }
}

/* ---- Input gradient of few pixels ---- */

/* With few pixels, turning the weights would cost more than multiplying by them: they are read as they stand, and each
 * sum has 16 accumulators, one for each place in a panel. */
struct thin {
    const float *g; /* [pixels][g_step], zero beyond the outputs */
    ptrdiff_t g_step, panels;
    const float *w; /* the first channel's row in the first panel */
    ptrdiff_t w_step;
};

/* The sums of four accumulators of 16, each by halves. */
static inline four folded(const float *sums)
{
    float lanes[16];
    UNROLL for (int i = 0; i < 4; i++)
    {
        const four *s = (const four *)(sums + i * PANEL);
        *(four *)(lanes + 4 * i) = (s[0] + s[2]) + (s[1] + s[3]);
    }
    transpose_4(lanes, lanes, 4);
    const four *r = (const four *)lanes;
    return (r[0] + r[2]) + (r[1] + r[3]);
}

/* CHANNELS * PIXELS sums are 4. */
#define THIN_TILE(CHANNELS, PIXELS)                                                                \
    static four thin_tile_##CHANNELS##_##PIXELS(const struct thin *s)                              \
    {                                                                                              \
        enum { V = PANEL_VECTORS };                                                                \
        vector sum[4][V];                                                                          \
        UNROLL for (int i = 0; i < 4; i++)                                                         \
            UNROLL for (int j = 0; j < V; j++) sum[i][j] = (vector){0};                            \
        const float *w = s->w, *g = s->g;                                                          \
        for (ptrdiff_t o = 0; o < s->panels; o++, w += s->w_step, g += PANEL)                      \
            UNROLL for (int c = 0; c < (CHANNELS); c++)                                            \
                UNROLL for (int j = 0; j < V; j++) {                                               \
                    const vector a = load(w + c * PANEL + j * LANES);                              \
                    UNROLL for (int i = 0; i < (PIXELS); i++)                                      \
                        sum[i * (CHANNELS) + c][j] += a * load(g + i * s->g_step + j * LANES);     \
                }                                                                                  \
        float sums[4 * PANEL];                                                                     \
        UNROLL for (int i = 0; i < 4; i++)                                                         \
            UNROLL for (int j = 0; j < V; j++) store(sums + i * PANEL + j * LANES, sum[i][j]);     \
        return folded(sums);                                                                       \
    }

THIN_TILE(4, 1) THIN_TILE(2, 2) THIN_TILE(1, 4)

enum { MOST_THIN = 4 };

static void thin_input_gradient(const struct shape *z, ptrdiff_t pixels, float *gx, const float *g, const float *w,
                                float *scratch, bool add)
{
    const ptrdiff_t wide = up(z->o, PANEL);
    for (ptrdiff_t at_once; pixels > 0; pixels -= at_once, g += at_once * z->o, gx += at_once * z->c) {
        at_once = pixels >= 4 ? 4 : pixels >= 2 ? 2 : 1;
        const ptrdiff_t channels = 4 / at_once;
        for (ptrdiff_t i = 0; i < at_once; i++) {
            memcpy(scratch + i * wide, g + i * z->o, (size_t)z->o * sizeof(float));
            memset(scratch + i * wide + z->o, 0, (size_t)(wide - z->o) * sizeof(float));
        }
        for (ptrdiff_t c = 0; c < z->c; c += channels) {
            const ptrdiff_t from = smaller(c, z->c - channels); /* a tile is whole: the last may begin with old ones */
            const struct thin s = {scratch, wide, wide / PANEL, w + from * PANEL, z->c * PANEL};
            const four sums = at_once == 4 ? thin_tile_1_4(&s) : at_once == 2 ? thin_tile_2_2(&s) : thin_tile_4_1(&s);
            for (ptrdiff_t i = 0; i < at_once; i++)
                for (ptrdiff_t j = c - from; j < channels; j++) {
                    float *to = gx + i * z->c + from + j;
                    *to = add ? *to + sums[i * channels + j] : sums[i * channels + j];
                }
        }
    }
}

/* A stride of s leaves s * s phases of pixels, each a convolution of g with every s-th tap. Each sum
 * takes kh ascending, then ow ascending (kw descending), then o; for few pixels see above. */
void KERNEL(conv_input_gradient)(const int32_t *p, void *const *operand, bool add)
{
    const struct shape z = shape_of(p);
    if (depthwise(&z)) {
        KERNEL(depthwise_input_gradient)(p, operand, add);
        return;
    }
    const ptrdiff_t pixels = z.n * z.h * z.w;
    if (pointwise(&z) && z.sh == 1 && z.sw == 1 && z.groups == 1 && p[CONV_NUMBER] == NUMBER_FLOAT32 &&
        pixels <= MOST_THIN && z.c >= 4) {
        thin_input_gradient(&z, pixels, operand[0], operand[2], operand[3], operand[1], add);
        return;
    }
    float *scratch = operand[1];
    const struct weights w = weights_in(p[CONV_NUMBER], operand[3], z.groups * z.group_w);
    const ptrdiff_t reach = (z.kh - 1) * z.dh + 1, margin = (z.kw - 1) * z.dw * z.o;
    const ptrdiff_t ring = pointwise(&z) ? 0 : up(reach * (z.ow * z.o + 2 * margin), PANEL);
    const ptrdiff_t most = (pointwise(&z) ? 4 : 2) * PANEL;
    for (ptrdiff_t group = 0; group < z.groups; group++)
        for (ptrdiff_t c0 = 0; c0 < z.group_c; c0 += most) {
            const struct channels part = {
                .g = operand[2], .first_o = group * z.group_o, .w = w, .w_at = group * z.group_w,
                .gx = (float *)operand[0] + group * z.group_c + c0, .c0 = c0, .width = smaller(most, z.group_c - c0),
                .ring = scratch, .panels = scratch + ring, .add = add,
            };
            for (ptrdiff_t ph = 0; ph < smaller(z.sh, z.h); ph++)
                for (ptrdiff_t pw = 0; pw < smaller(z.sw, z.w); pw++)
                    input_gradient_of_phase(&part, &z, ph, pw);
        }
}

/* ---- Weight gradient -------------------------------------------------------------------------- */

/* gw[row][16 outputs] += sum over pixels of x[pixel][row] * g[pixel][16 outputs] */
struct weight_strip {
    const float *x, *g;       /* g: the panel's outputs alone, 16 a pixel */
    ptrdiff_t high, wide;     /* the pixels */
    ptrdiff_t x_step;         /* from pixel to pixel */
    ptrdiff_t x_down, g_down; /* from pixel row to pixel row */
    float *gw;
    bool begun;               /* gw holds what the sums go on from */
};

/* One branch in the inner loop, and a sum would live on the stack. */
#define WEIGHT_TILE(ROWS)                                                                          \
    static void weight_tile_##ROWS(const struct weight_strip *s)                                   \
    {                                                                                              \
        enum { V = PANEL_VECTORS };                                                                \
        const ptrdiff_t step = s->x_step;                                                          \
        vector sum[ROWS][V];                                                                       \
        UNROLL for (int i = 0; i < (ROWS); i++)                                                    \
            UNROLL for (int j = 0; j < V; j++)                                                     \
                sum[i][j] = s->begun ? load(s->gw + i * PANEL + j * LANES) : (vector){0};          \
        for (ptrdiff_t r = 0; r < s->high; r++) {                                                  \
            const float *x = s->x + r * s->x_down, *g = s->g + r * s->g_down;                      \
            for (ptrdiff_t q = 0; q < s->wide; q++) {                                              \
                vector b[V];                                                                       \
                UNROLL for (int j = 0; j < V; j++) b[j] = load(g + j * LANES);                     \
                UNROLL for (int i = 0; i < (ROWS); i++) {                                          \
                    const vector a = splat(x[i]);                                                  \
                    UNROLL for (int j = 0; j < V; j++) sum[i][j] += a * b[j];                      \
                }                                                                                  \
                x += step;                                                                         \
                g += PANEL;                                                                        \
            }                                                                                      \
        }                                                                                          \
        UNROLL for (int i = 0; i < (ROWS); i++)                                                    \
            UNROLL for (int j = 0; j < V; j++) store(s->gw + i * PANEL + j * LANES, sum[i][j]);    \
    }

#if defined(__AVX512F__)
enum { MOST_ROWS = 12 };
WEIGHT_TILE(1) WEIGHT_TILE(2) WEIGHT_TILE(3) WEIGHT_TILE(4) WEIGHT_TILE(5) WEIGHT_TILE(6)
WEIGHT_TILE(7) WEIGHT_TILE(8) WEIGHT_TILE(9) WEIGHT_TILE(10) WEIGHT_TILE(11) WEIGHT_TILE(12)
static void (*const WEIGHT_TILES[])(const struct weight_strip *) = {
    weight_tile_1, weight_tile_2, weight_tile_3, weight_tile_4,  weight_tile_5,  weight_tile_6,
    weight_tile_7, weight_tile_8, weight_tile_9, weight_tile_10, weight_tile_11, weight_tile_12,
};
#elif defined(__AVX__) || defined(__aarch64__)
enum { MOST_ROWS = 6 };
WEIGHT_TILE(1) WEIGHT_TILE(2) WEIGHT_TILE(3) WEIGHT_TILE(4) WEIGHT_TILE(5) WEIGHT_TILE(6)
static void (*const WEIGHT_TILES[])(const struct weight_strip *) = {weight_tile_1, weight_tile_2, weight_tile_3,
                                                                    weight_tile_4, weight_tile_5, weight_tile_6};
#else
enum { MOST_ROWS = 3 };
WEIGHT_TILE(1) WEIGHT_TILE(2) WEIGHT_TILE(3)
static void (*const WEIGHT_TILES[])(const struct weight_strip *) = {weight_tile_1, weight_tile_2, weight_tile_3};
#endif

/* `rows` weight rows that stand next to each other in x and in the panel, divided evenly into tiles. */
static void play_weight_strip(struct weight_strip s, ptrdiff_t rows)
{
    if (s.begun && s.high == 0)
        return;
    const ptrdiff_t tiles = parts(rows, MOST_ROWS), least = rows / tiles, one_more = rows % tiles;
    for (ptrdiff_t t = 0; t < tiles; t++) {
        const ptrdiff_t count = least + (t < one_more);
        WEIGHT_TILES[count - 1](&s);
        s.x += count;
        s.gw += count * PANEL;
    }
}

/* Some outputs along one side: from `first`, `count` of them. */
struct span {
    ptrdiff_t first, count;
};

/* Those of `among` whose tap k lies inside the image. */
static struct span inside(struct span among, ptrdiff_t k, ptrdiff_t padding, ptrdiff_t stride, ptrdiff_t side)
{
    const ptrdiff_t first = larger(among.first, k < padding ? parts(padding - k, stride) : 0);
    const ptrdiff_t end = k - padding < side ? (side - 1 + padding - k) / stride + 1 : 0;
    return (struct span){first, larger(0, smaller(among.first + among.count, end) - first)};
}

/* Outputs whose gradients are taken together: they stay in near memory for all taps and channels. */
enum { NEAR = 128 };

/* A rectangle of one image's outputs, and where it stands. */
struct rectangle {
    struct span rows, columns;
};

/* One panel's gradients in a rectangle side by side, 16 a pixel, zero beyond `width`. */
static void gather_panel(float *to, const float *g, const struct shape *z, const struct rectangle *at, ptrdiff_t width)
{
    for (ptrdiff_t r = 0; r < at->rows.count; r++) {
        const float *from = g + ((at->rows.first + r) * z->ow + at->columns.first) * z->o;
        for (ptrdiff_t q = 0; q < at->columns.count; q++, from += z->o, to += PANEL)
            if (width >= PANEL)
                UNROLL for (int j = 0; j < PANEL_VECTORS; j++) store(to + j * LANES, load(from + j * LANES));
            else
                for (ptrdiff_t j = 0; j < PANEL; j++)
                    to[j] = j < width ? from[j] : 0;
    }
}

/* Reading only pixels that exist: a strip of a group's channels for each tap. */
static void weight_gradient_by_tap(struct weight_strip s, const struct shape *z, const struct rectangle *at,
                                   const float *x)
{
    const float *g = s.g;
    float *gw = s.gw;
    for (ptrdiff_t kh = 0; kh < z->kh; kh++) {
        const struct span rows = inside(at->rows, kh * z->dh, z->ph, z->sh, z->h);
        for (ptrdiff_t kw = 0; kw < z->kw; kw++, gw += z->group_c * PANEL) {
            const struct span columns = inside(at->columns, kw * z->dw, z->pw, z->sw, z->w);
            s.high = columns.count > 0 ? rows.count : 0;
            s.wide = columns.count;
            s.x = x; /* read nowhere where no pixel has this tap */
            if (s.high > 0) {
                const ptrdiff_t top = rows.first * z->sh - z->ph + kh * z->dh;
                const ptrdiff_t left = columns.first * z->sw - z->pw + kw * z->dw;
                s.x = x + (top * z->w + left) * z->c;
                s.g = g + (rows.first - at->rows.first) * s.g_down + (columns.first - at->columns.first) * PANEL;
            }
            s.gw = gw;
            play_weight_strip(s, z->group_c);
        }
    }
}

/* Without padding (or from a padded copy): a strip of KW * C rows for each kh. */
static void weight_gradient_by_row(struct weight_strip s, const struct shape *z, const struct rectangle *at,
                                   const float *x)
{
    s.high = at->rows.count;
    s.wide = at->columns.count;
    s.x = x + at->rows.first * s.x_down + at->columns.first * s.x_step;
    for (ptrdiff_t kh = 0; kh < z->kh; kh++) {
        play_weight_strip(s, z->kw * z->c);
        s.x += s.x_down / z->sh;
        s.gw += z->kw * z->c * PANEL;
    }
}

/* Each sum goes on from what gw held where the record accumulates, else from zero, and takes the pixels
 * n, oh, ow ascending, a rectangle of at most NEAR of an image after the other. */
void KERNEL(conv_weight_gradient)(const int32_t *p, void *const *operand, bool add)
{
    struct shape z = shape_of(p);
    if (depthwise(&z)) {
        KERNEL(depthwise_weight_gradient)(p, operand, add);
        return;
    }
    float *gw = operand[0], *padded = operand[1];
    const float *x = operand[2], *g = operand[3];
    if (pointwise(&z) && z.sh == 1 && z.sw == 1) {
        z.w = z.ow = z.n * z.h * z.w;
        z.n = z.h = z.oh = 1;
    }
    const bool has_padding = z.ph > 0 || z.pw > 0;
    const bool plain = z.groups == 1 && z.dh == 1 && z.dw == 1;
    const bool by_tap = !plain || (has_padding && z.c >= 8);
    const bool copies = has_padding && !by_tap;
    const ptrdiff_t row = z.w * z.c;
    const ptrdiff_t wide = copies ? row + 2 * z.pw * z.c : row;
    const ptrdiff_t columns = parts(z.ow, parts(z.ow, NEAR)), rows = larger(1, NEAR / columns);
    float near[NEAR * PANEL];
    if (copies)
        memset(padded, 0, (size_t)((z.h + 2 * z.ph) * wide) * sizeof(float));
    for (ptrdiff_t n = 0; n < z.n; n++, g += z.oh * z.ow * z.o) {
        const float *image = x + n * z.h * row;
        if (copies) {
            for (ptrdiff_t h = 0; h < z.h; h++)
                memcpy(padded + (h + z.ph) * wide + z.pw * z.c, image + h * row, (size_t)row * sizeof(float));
            image = padded;
        }
        for (ptrdiff_t oh = 0; oh < z.oh; oh += rows)
            for (ptrdiff_t ow = 0; ow < z.ow; ow += columns)
                for (ptrdiff_t group = 0; group < z.groups; group++)
                    for (ptrdiff_t o = 0; o < z.group_o; o += PANEL) {
                        const struct rectangle at = {{oh, smaller(rows, z.oh - oh)}, {ow, smaller(columns, z.ow - ow)}};
                        gather_panel(near, g + group * z.group_o + o, &z, &at, z.group_o - o);
                        const struct weight_strip s = {
                            .g = near, .g_down = at.columns.count * PANEL, .x_step = z.sw * z.c, .x_down = z.sh * wide,
                            .gw = gw + group * z.group_w + o * z.kh * z.kw * z.group_c,
                            .begun = add || n > 0 || oh > 0 || ow > 0,
                        };
                        if (by_tap)
                            weight_gradient_by_tap(s, &z, &at, image + group * z.group_c);
                        else
                            weight_gradient_by_row(s, &z, &at, image);
                    }
    }
}
