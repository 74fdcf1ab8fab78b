/* This build's kernels by opcode, and the two that only move bytes. */
#include <string.h>

#include "kernels.h"

/* y[t.i] = x[s.i] for i in the box; a run along the last side is one memcpy. */
void KERNEL(copy)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    const int32_t *d = p + COPY_D, *s = p + COPY_S, *t = p + COPY_T;
    for (ptrdiff_t i = 0; i < d[0]; i++)
        for (ptrdiff_t j = 0; j < d[1]; j++)
            for (ptrdiff_t k = 0; k < d[2]; k++) {
                const float *x = (const float *)operand[1] + i * s[0] + j * s[1] + k * s[2];
                float *y = (float *)operand[0] + i * t[0] + j * t[1] + k * t[2];
                if (s[3] == 1 && t[3] == 1)
                    memcpy(y, x, (size_t)d[3] * sizeof(float));
                else
                    for (ptrdiff_t l = 0; l < d[3]; l++)
                        y[l * t[3]] = x[l * s[3]];
            }
}

void KERNEL(zero)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    memset(operand[0], 0, (size_t)p[ZERO_BYTES]);
}

kernel *const KERNEL(kernels)[OPS] = {
    [OP_CONV] = KERNEL(conv),
    [OP_CONV_INPUT_GRADIENT] = KERNEL(conv_input_gradient),
    [OP_CONV_WEIGHT_GRADIENT] = KERNEL(conv_weight_gradient),
    [OP_MAX_POOL] = KERNEL(max_pool),
    [OP_MAX_POOL_GRADIENT] = KERNEL(max_pool_gradient),
    [OP_AVERAGE_POOL] = KERNEL(average_pool),
    [OP_AVERAGE_POOL_GRADIENT] = KERNEL(average_pool_gradient),
    [OP_SUM] = KERNEL(sum),
    [OP_MAP] = KERNEL(map),
    [OP_CROSS_ENTROPY] = KERNEL(cross_entropy),
    [OP_CROSS_ENTROPY_SCORE] = KERNEL(cross_entropy_score),
    [OP_COPY] = KERNEL(copy),
    [OP_ZERO] = KERNEL(zero),
    [OP_NORM] = KERNEL(norm),
    [OP_NORM_GRADIENT] = KERNEL(norm_gradient),
    [OP_SOFTMAX] = KERNEL(softmax),
    [OP_SOFTMAX_GRADIENT] = KERNEL(softmax_gradient),
    [OP_MATMUL] = KERNEL(matmul),
    [OP_GATHER] = KERNEL(gather),
    [OP_SCATTER_ADD] = KERNEL(scatter_add),
    [OP_LOSS] = KERNEL(loss),
    [OP_LOSS_SCORE] = KERNEL(loss_score),
    [OP_UPSAMPLE] = KERNEL(upsample),
    [OP_UPSAMPLE_GRADIENT] = KERNEL(upsample_gradient),
    [OP_RANDOM_MASK] = KERNEL(random_mask),
    [OP_CONVERT] = KERNEL(convert),
    [OP_PACK_SIGN] = KERNEL(pack_sign),
    [OP_GATE_BITS] = KERNEL(gate_bits),
};
