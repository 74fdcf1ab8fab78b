/* The verifier's second file: operations beside convolutions, pools, sums, maps and copies. */
#include "need.h"

static enum rule check_cross_entropy(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    if (!positive(p, CE_IGNORE) || p[CE_N] % p[CE_T] != 0)
        return RULE_PARAMETER;
    if (r->op == OP_CROSS_ENTROPY && !between(p[CE_SMOOTHING], 0, ONE_BITS))
        return RULE_PARAMETER;
    const uint64_t n = (uint64_t)p[CE_N], examples = (uint64_t)(p[CE_N] / p[CE_T]);
    need->operations = times(n, (uint64_t)p[CE_C]);
    const uint64_t logits = floats(need->operations);
    if (r->op == OP_CROSS_ENTROPY) {
        const uint64_t bytes[OPERANDS] = {4, logits, logits, floats(n), floats(examples), 4};
        memcpy(need->bytes, bytes, sizeof bytes);
    } else {
        const uint64_t bytes[OPERANDS] = {floats(2 * examples), logits, floats(n), floats(examples)};
        memcpy(need->bytes, bytes, sizeof bytes);
    }
    return RULE_NONE;
}

static enum rule check_loss(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    const bool huber = p[LOSS_MEASURE] == MEASURE_HUBER;
    if (!positive(p, LOSS_MEASURE) || !between(p[LOSS_MEASURE], 0, MEASURES - 1) ||
        !between(p[LOSS_DELTA], huber ? SMALLEST_BITS : 0, huber ? LARGEST_BITS : 0))
        return RULE_PARAMETER;
    const uint64_t n = (uint64_t)p[LOSS_N];
    need->operations = times(n, (uint64_t)p[LOSS_C]);
    const uint64_t values = floats(need->operations);
    if (r->op == OP_LOSS) {
        const uint64_t bytes[OPERANDS] = {4, values, values, values, floats(n), 4};
        memcpy(need->bytes, bytes, sizeof bytes);
    } else {
        const uint64_t bytes[OPERANDS] = {floats(2 * n), values, values, floats(n)};
        memcpy(need->bytes, bytes, sizeof bytes);
    }
    return RULE_NONE;
}

static enum rule check_norm(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    if (!positive(p, NORM_EPS) || !between(p[NORM_EPS], 0, r->op == OP_NORM ? LARGEST_BITS : 1))
        return RULE_PARAMETER;
    if (p[NORM_C] % p[NORM_G] != 0)
        return RULE_GROUPS;
    need->operations = times3((uint64_t)p[NORM_N], (uint64_t)p[NORM_R], (uint64_t)p[NORM_C]);
    const uint64_t values = floats(need->operations), vector = floats(up((uint64_t)p[NORM_C], PANEL));
    const uint64_t stats = times3(8, (uint64_t)p[NORM_N], (uint64_t)p[NORM_G]);
    if (r->op == OP_NORM) {
        const uint64_t bytes[OPERANDS] = {values, stats, values, vector, vector};
        memcpy(need->bytes, bytes, sizeof bytes);
    } else {
        const uint64_t bytes[OPERANDS] = {vector, vector, values, values, values, stats, vector};
        memcpy(need->bytes, bytes, sizeof bytes);
    }
    return RULE_NONE;
}

static enum rule check_softmax(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    if (!positive(p, SOFTMAX_CAUSAL) || p[SOFTMAX_CAUSAL] < 0)
        return RULE_PARAMETER;
    need->operations = times((uint64_t)p[SOFTMAX_ROWS], (uint64_t)p[SOFTMAX_C]);
    for (int i = 0; i < (r->op == OP_SOFTMAX ? 2 : 3); i++)
        need->bytes[i] = floats(need->operations);
    return RULE_NONE;
}

static enum rule check_matmul(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    if (!positive(p, MATMUL_A))
        return RULE_PARAMETER;
    for (int i = MATMUL_A; i < MATMUL_SCALE; i++)
        if (p[i] < 0)
            return RULE_PARAMETER;
    const int32_t outer = p[MATMUL_OUTER], inner = p[MATMUL_INNER], m = p[MATMUL_M], n = p[MATMUL_N], k = p[MATMUL_K];
    const bool whole_panels = p[MATMUL_B + 3] == 1 && n % PANEL == 0;
    const int32_t of_a[] = {outer, inner, m, k}, of_b[] = {outer, inner, k, n}, of_y[] = {outer, inner, m, n};
    if (!box_countable(of_a, p + MATMUL_A) || !box_countable(of_b, p + MATMUL_B) || !box_countable(of_y, p + MATMUL_Y))
        return RULE_PARAMETER;
    need->operations = times(times4((uint64_t)outer, (uint64_t)inner, (uint64_t)m, (uint64_t)n), (uint64_t)k);
    need->bytes[0] = box(of_y, p + MATMUL_Y);
    need->bytes[1] = whole_panels ? 0 : times3(4, PANEL, (uint64_t)k);
    need->bytes[2] = box(of_a, p + MATMUL_A);
    need->bytes[3] = box(of_b, p + MATMUL_B);
    return RULE_NONE;
}

static enum rule check_gather(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    if (!positive(p, GATHER_INDEX_STEP) || p[GATHER_INDEX_STEP] < 0 || p[GATHER_ROW_STEP] < 0 ||
        !countable(times((uint64_t)p[GATHER_I], (uint64_t)p[GATHER_INDEX_STEP])) ||
        !countable(times((uint64_t)p[GATHER_I], (uint64_t)p[GATHER_ROW_STEP])))
        return RULE_PARAMETER;
    const uint64_t last = (uint64_t)p[GATHER_I] - 1, c = (uint64_t)p[GATHER_C];
    const uint64_t rows = floats(plus(times(last, (uint64_t)p[GATHER_ROW_STEP]), c));
    const uint64_t table = floats(times((uint64_t)p[GATHER_V], up(c, PANEL)));
    need->operations = times((uint64_t)p[GATHER_I], c);
    need->bytes[0] = r->op == OP_GATHER ? rows : table;
    need->bytes[1] = r->op == OP_GATHER ? table : rows;
    need->bytes[2] = floats(plus(times(last, (uint64_t)p[GATHER_INDEX_STEP]), 1));
    return RULE_NONE;
}

static enum rule check_upsample(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    if (!positive(p, UPSAMPLE_PARAMETERS) || p[UPSAMPLE_FH] > MOST_SIDE || p[UPSAMPLE_FW] > MOST_SIDE)
        return RULE_PARAMETER;
    const uint64_t small =
        times4((uint64_t)p[UPSAMPLE_N], (uint64_t)p[UPSAMPLE_H], (uint64_t)p[UPSAMPLE_W], (uint64_t)p[UPSAMPLE_C]);
    need->operations = times3(small, (uint64_t)p[UPSAMPLE_FH], (uint64_t)p[UPSAMPLE_FW]);
    need->bytes[r->op == OP_UPSAMPLE ? 0 : 1] = floats(need->operations);
    need->bytes[r->op == OP_UPSAMPLE ? 1 : 0] = floats(small);
    return RULE_NONE;
}

static enum rule check_random_mask(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    if (!positive(p, 1) || p[MASK_STREAM] < 0 || !between(p[MASK_P], 0, ONE_BITS - 1))
        return RULE_PARAMETER;
    need->operations = (uint64_t)p[MASK_COUNT];
    need->bytes[0] = floats(need->operations);
    need->bytes[1] = 8;
    return RULE_NONE;
}

static enum rule check_convert(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    if (!positive(p, 2) || !between(p[CONVERT_FROM], 0, NUMBERS - 1) || !between(p[CONVERT_TO], 0, NUMBERS - 1) ||
        (p[CONVERT_FROM] == NUMBER_FLOAT32) == (p[CONVERT_TO] == NUMBER_FLOAT32))
        return RULE_PARAMETER;
    const uint64_t rows = (uint64_t)p[CONVERT_ROWS], count = (uint64_t)p[CONVERT_COUNT];
    need->operations = times(rows, count);
    need->bytes[0] = times(rows, number_bytes(p[CONVERT_TO], count));
    need->bytes[1] = times(rows, number_bytes(p[CONVERT_FROM], count));
    return RULE_NONE;
}

static enum rule check_bits(const struct record *r, struct need *need)
{
    if (!positive(r->parameter, 1))
        return RULE_PARAMETER;
    const uint64_t count = (uint64_t)r->parameter[BITS_COUNT], bits = up(count, 8) / 8;
    need->operations = count;
    need->bytes[0] = r->op == OP_PACK_SIGN ? bits : floats(count);
    need->bytes[1] = floats(count);
    need->bytes[2] = r->op == OP_PACK_SIGN ? 0 : bits;
    return RULE_NONE;
}

enum rule tacit_check_layer(const struct record *r, struct need *need)
{
    switch (r->op) {
    case OP_CROSS_ENTROPY:
    case OP_CROSS_ENTROPY_SCORE:
        return check_cross_entropy(r, need);
    case OP_LOSS:
    case OP_LOSS_SCORE:
        return check_loss(r, need);
    case OP_NORM:
    case OP_NORM_GRADIENT:
        return check_norm(r, need);
    case OP_SOFTMAX:
    case OP_SOFTMAX_GRADIENT:
        return check_softmax(r, need);
    case OP_MATMUL:
        return check_matmul(r, need);
    case OP_GATHER:
    case OP_SCATTER_ADD:
        return check_gather(r, need);
    case OP_UPSAMPLE:
    case OP_UPSAMPLE_GRADIENT:
        return check_upsample(r, need);
    case OP_RANDOM_MASK:
        return check_random_mask(r, need);
    case OP_CONVERT:
        return check_convert(r, need);
    case OP_PACK_SIGN:
    case OP_GATE_BITS:
        return check_bits(r, need);
    default:
        return RULE_OPERATION;
    }
}
