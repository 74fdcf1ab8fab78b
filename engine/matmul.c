/* Products of many small matrices, read and written where they stand.
 *
 * A tile is a few rows by 16 columns; each sum begins at zero and takes k ascending. Columns of b that
 * are not 16 side by side are packed into scratch first, zero beyond the last. */
#include "kernels.h"
#include "vector.h"

struct product {
    const float *a;
    ptrdiff_t am, ak;
    const float *b;   /* 16 columns of each k, `bk` apart */
    ptrdiff_t bk, k;
    float *y;
    ptrdiff_t ym, yn, width; /* columns used, at most 16 */
    float scale;
    bool add;
};

/* Where columns are not a whole panel side by side; `sums` has 16 floats a row. */
static void finish_one_by_one(const struct product *s, const float *sums, ptrdiff_t rows)
{
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < s->width; j++) {
            float *y = s->y + i * s->ym + j * s->yn;
            *y = s->add ? sums[i * PANEL + j] * s->scale + *y : sums[i * PANEL + j] * s->scale;
        }
}

#define TILE(ROWS)                                                                                 \
    static void tile_##ROWS(const struct product *s)                                               \
    {                                                                                              \
        enum { V = PANEL_VECTORS };                                                                \
        const float *a = s->a, *b = s->b;                                                          \
        const ptrdiff_t am = s->am;                                                                \
        vector sum[ROWS][V];                                                                       \
        UNROLL for (int i = 0; i < (ROWS); i++)                                                    \
            UNROLL for (int j = 0; j < V; j++) sum[i][j] = (vector){0};                            \
        for (ptrdiff_t k = 0; k < s->k; k++) {                                                     \
            vector column[V];                                                                      \
            UNROLL for (int j = 0; j < V; j++) column[j] = load(b + j * LANES);                    \
            UNROLL for (int i = 0; i < (ROWS); i++) {                                              \
                const vector value = splat(a[i * am]);                                             \
                UNROLL for (int j = 0; j < V; j++) sum[i][j] += value * column[j];                 \
            }                                                                                      \
            a += s->ak;                                                                            \
            b += s->bk;                                                                            \
        }                                                                                          \
        if (s->width == PANEL && s->yn == 1) {                                                     \
            UNROLL for (int i = 0; i < (ROWS); i++)                                                \
                UNROLL for (int j = 0; j < V; j++) {                                               \
                    float *y = s->y + i * s->ym + j * LANES;                                       \
                    store(y, s->add ? sum[i][j] * s->scale + load(y) : sum[i][j] * s->scale);      \
                }                                                                                  \
        } else {                                                                                   \
            float sums[ROWS][PANEL];                                                               \
            UNROLL for (int i = 0; i < (ROWS); i++)                                                \
                UNROLL for (int j = 0; j < V; j++) store(sums[i] + j * LANES, sum[i][j]);          \
            finish_one_by_one(s, sums[0], ROWS);                                                   \
        }                                                                                          \
    }

TILE(1) TILE(2) TILE(3)
#if defined(__AVX__) || defined(__aarch64__)
TILE(4) TILE(5) TILE(6)
#endif
#if defined(__AVX512F__)
TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
enum { MOST_ROWS = 12 };
static void (*const TILES[])(const struct product *) = {tile_1, tile_2, tile_3, tile_4,  tile_5,  tile_6,
                                                        tile_7, tile_8, tile_9, tile_10, tile_11, tile_12};
#elif defined(__AVX__) || defined(__aarch64__)
enum { MOST_ROWS = 6 };
static void (*const TILES[])(const struct product *) = {tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};
#else
enum { MOST_ROWS = 3 };
static void (*const TILES[])(const struct product *) = {tile_1, tile_2, tile_3};
#endif

/* Rows divided evenly into tiles (7 = 4 + 3). */
static void play_rows(struct product s, ptrdiff_t rows)
{
    const ptrdiff_t tiles = parts(rows, MOST_ROWS), least = rows / tiles, one_more = rows % tiles;
    for (ptrdiff_t t = 0; t < tiles; t++) {
        const ptrdiff_t count = least + (t < one_more);
        TILES[count - 1](&s);
        s.a += count * s.am;
        s.y += count * s.ym;
    }
}

static void pack(float *to, const float *b, ptrdiff_t k, ptrdiff_t bk, ptrdiff_t width, ptrdiff_t bn)
{
    for (ptrdiff_t i = 0; i < k; i++, to += PANEL, b += bk) {
        for (ptrdiff_t j = 0; j < width; j++)
            to[j] = b[j * bn];
        for (ptrdiff_t j = width; j < PANEL; j++)
            to[j] = 0;
    }
}

static void multiply(struct product s, const int32_t *p, float *scratch)
{
    const ptrdiff_t bk = p[MATMUL_B + 2], bn = p[MATMUL_B + 3];
    const float *b = s.b;
    for (ptrdiff_t n = 0; n < p[MATMUL_N]; n += PANEL, b += PANEL * bn, s.y += PANEL * s.yn) {
        s.width = smaller(PANEL, p[MATMUL_N] - n);
        s.b = b;
        s.bk = bk;
        if (bn != 1 || s.width < PANEL) {
            pack(scratch, b, s.k, bk, s.width, bn);
            s.b = scratch;
            s.bk = PANEL;
        }
        play_rows(s, p[MATMUL_M]);
    }
}

void KERNEL(matmul)(const int32_t *p, void *const *operand, bool add)
{
    const int32_t *a = p + MATMUL_A, *b = p + MATMUL_B, *y = p + MATMUL_Y;
    for (ptrdiff_t i = 0; i < p[MATMUL_OUTER]; i++)
        for (ptrdiff_t j = 0; j < p[MATMUL_INNER]; j++) {
            const struct product s = {
                .a = (const float *)operand[2] + i * a[0] + j * a[1], .am = a[2], .ak = a[3],
                .b = (const float *)operand[3] + i * b[0] + j * b[1], .k = p[MATMUL_K],
                .y = (float *)operand[0] + i * y[0] + j * y[1], .ym = y[2], .yn = y[3],
                .scale = float_of(p[MATMUL_SCALE]), .add = add,
            };
            multiply(s, p, operand[1]);
        }
}
