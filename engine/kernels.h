/* The kernels, and how one is chosen.
 *
 * The files that build.py calls kernels are compiled once for each instruction set, with TACIT_VARIANT
 * naming it; compiled without, they are the baseline. Each build has one table. */
#ifndef TACIT_KERNELS_H
#define TACIT_KERNELS_H

#include <stdbool.h>

#include "format.h"

#ifndef TACIT_VARIANT
#define TACIT_VARIANT baseline
#endif

#define TACIT_JOIN_(name, variant) tacit_##name##_##variant
#define TACIT_JOIN(name, variant) TACIT_JOIN_(name, variant)
#define KERNEL(name) TACIT_JOIN(name, TACIT_VARIANT)

/* Plays one record: its parameters, where its operands stand (NULL if absent), and whether its first
 * output is added to. The verifier has seen all of it, so a kernel checks nothing again; only what
 * lies *in* the operands (labels, pool indices) can be anything. */
typedef void kernel(const int32_t *parameter, void *const *operand, bool add);

kernel KERNEL(conv), KERNEL(conv_input_gradient), KERNEL(conv_weight_gradient);
kernel KERNEL(depthwise), KERNEL(depthwise_input_gradient), KERNEL(depthwise_weight_gradient);
kernel KERNEL(max_pool), KERNEL(max_pool_gradient), KERNEL(average_pool), KERNEL(average_pool_gradient);
kernel KERNEL(sum), KERNEL(map), KERNEL(cross_entropy), KERNEL(cross_entropy_score);
kernel KERNEL(copy), KERNEL(zero);
kernel KERNEL(norm), KERNEL(norm_gradient), KERNEL(softmax), KERNEL(softmax_gradient), KERNEL(matmul);
kernel KERNEL(gather), KERNEL(scatter_add), KERNEL(loss), KERNEL(loss_score);
kernel KERNEL(upsample), KERNEL(upsample_gradient), KERNEL(random_mask), KERNEL(convert);
kernel KERNEL(pack_sign), KERNEL(gate_bits);

/* By opcode. */
extern kernel *const tacit_kernels_baseline[OPS];
extern kernel *const tacit_kernels_avx2[OPS];
extern kernel *const tacit_kernels_avx512[OPS];

#endif
