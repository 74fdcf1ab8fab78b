/* Rows of a table by number, their gradient, and pixels enlarged. An index is data and may be anything: it is
 * compared with the rows that exist before it is an address. */
#include "kernels.h"
#include "vector.h"

static bool is_row(int32_t index, int32_t rows)
{
    return index >= 0 && index < rows;
}

void KERNEL(gather)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    const size_t bytes = (size_t)p[GATHER_C] * sizeof(float);
    const ptrdiff_t row = up(p[GATHER_C], PANEL);
    float *y = operand[0];
    const float *table = operand[1];
    const int32_t *index = operand[2];
    for (ptrdiff_t i = 0; i < p[GATHER_I]; i++, y += p[GATHER_ROW_STEP], index += p[GATHER_INDEX_STEP]) {
        if (is_row(*index, p[GATHER_V]))
            memcpy(y, table + *index * row, bytes);
        else
            memset(y, 0, bytes);
    }
}

void KERNEL(scatter_add)(const int32_t *p, void *const *operand, bool add)
{
    const ptrdiff_t row = up(p[GATHER_C], PANEL);
    float *table = operand[0];
    const float *g = operand[1];
    const int32_t *index = operand[2];
    if (!add)
        memset(table, 0, (size_t)p[GATHER_V] * (size_t)row * sizeof(float));
    for (ptrdiff_t i = 0; i < p[GATHER_I]; i++, g += p[GATHER_ROW_STEP], index += p[GATHER_INDEX_STEP]) {
        if (!is_row(*index, p[GATHER_V]))
            continue;
        float *to = table + *index * row;
        for (ptrdiff_t c = 0; c < p[GATHER_C]; c++)
            to[c] += g[c];
    }
}

/* Where pixel (row, column) of an enlarged image begins. */
static ptrdiff_t large_at(const int32_t *p, ptrdiff_t row, ptrdiff_t column)
{
    return (row * p[UPSAMPLE_W] * p[UPSAMPLE_FW] + column) * p[UPSAMPLE_C];
}

/* Rows of all images in one, for both. */
#define EACH_PIXEL(p, row, column)                                                                 \
    for (ptrdiff_t row = 0; row < (ptrdiff_t)(p)[UPSAMPLE_N] * (p)[UPSAMPLE_H]; row++)             \
        for (ptrdiff_t column = 0; column < (p)[UPSAMPLE_W]; column++)

#define EACH_COPY(p, i, j)                                                                         \
    for (ptrdiff_t i = 0; i < (p)[UPSAMPLE_FH]; i++)                                               \
        for (ptrdiff_t j = 0; j < (p)[UPSAMPLE_FW]; j++)

void KERNEL(upsample)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    float *y = operand[0];
    const float *x = operand[1];
    EACH_PIXEL(p, row, column)
    {
        EACH_COPY(p, i, j)
        memcpy(y + large_at(p, row * p[UPSAMPLE_FH] + i, column * p[UPSAMPLE_FW] + j), x,
               (size_t)p[UPSAMPLE_C] * sizeof(float));
        x += p[UPSAMPLE_C];
    }
}

void KERNEL(upsample_gradient)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    float *gx = operand[0];
    const float *g = operand[1];
    EACH_PIXEL(p, row, column)
    {
        memset(gx, 0, (size_t)p[UPSAMPLE_C] * sizeof(float));
        EACH_COPY(p, i, j)
        {
            const float *from = g + large_at(p, row * p[UPSAMPLE_FH] + i, column * p[UPSAMPLE_FW] + j);
            for (ptrdiff_t c = 0; c < p[UPSAMPLE_C]; c++)
                gx[c] += from[c];
        }
        gx += p[UPSAMPLE_C];
    }
}
