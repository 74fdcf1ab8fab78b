/* Whether a tape may be played.
 *
 * A tape may come from a stranger. After this file has accepted it, every byte that a kernel reads or
 * writes lies inside the operand it belongs to, every operand inside its region, and the work is known
 * beforehand. Kernels rely on that and check nothing.
 *
 * How it is kept easy to check: nothing here follows a pointer out of the tape. Sizes are unsigned
 * 64-bit numbers that saturate, so a product too large stays too large and fails the comparison with
 * an extent, which is below 2^47 (need.h). Each rule is one comparison, in the order of verify.h. */
#include "need.h"

/* ---- What an operation looks like --------------------------------------------------------------- */

/* A map's are read from the record. */
static const struct signature SIGNATURES[OPS] = {
    [OP_CONV] = {2, 5, CONV_PARAMETERS, true, {PLAIN, MAY | SCRATCH, PLAIN, PANELS, MAY | PANELS}},
    [OP_CONV_INPUT_GRADIENT] = {2, 4, CONV_PARAMETERS, true, {PLAIN, MAY | SCRATCH, PLAIN, PANELS}},
    [OP_CONV_WEIGHT_GRADIENT] = {2, 4, CONV_PARAMETERS, true, {PANELS, MAY | SCRATCH, PLAIN, PLAIN}},
    [OP_MAX_POOL] = {2, 3, POOL_PARAMETERS, false, {PLAIN, MAY, PLAIN}},
    [OP_MAX_POOL_GRADIENT] = {1, 4, POOL_PARAMETERS, false, {PLAIN, PLAIN, PLAIN, MAY}},
    [OP_AVERAGE_POOL] = {1, 2, POOL_PARAMETERS + 1, false, {PLAIN, PLAIN}},
    [OP_AVERAGE_POOL_GRADIENT] = {1, 2, POOL_PARAMETERS + 1, false, {PLAIN, PLAIN}},
    [OP_SUM] = {1, 2, SUM_PARAMETERS, true, {PLAIN, PLAIN}},
    [OP_CROSS_ENTROPY] = {2, 6, CE_PARAMETERS, true, {PLAIN, PLAIN, PLAIN, PLAIN, PLAIN, PLAIN}},
    [OP_CROSS_ENTROPY_SCORE] = {1, 4, CE_SCORE_PARAMETERS, false, {PLAIN, PLAIN, PLAIN, PLAIN}},
    [OP_COPY] = {1, 2, COPY_PARAMETERS, false, {PLAIN, PLAIN}},
    [OP_ZERO] = {1, 1, ZERO_PARAMETERS, false, {PLAIN}},
    [OP_NORM] = {2, 5, NORM_PARAMETERS, false, {PLAIN, MAY, PLAIN, MAY | PANELS, MAY | PANELS}},
    [OP_NORM_GRADIENT] = {3, 7, NORM_PARAMETERS, true,
                          {MAY | PANELS, MAY | PANELS, MAY, PLAIN, PLAIN, PLAIN, MAY | PANELS}},
    [OP_SOFTMAX] = {1, 2, SOFTMAX_PARAMETERS, false, {PLAIN, PLAIN}},
    [OP_SOFTMAX_GRADIENT] = {1, 3, SOFTMAX_PARAMETERS, false, {PLAIN, PLAIN, PLAIN}},
    [OP_MATMUL] = {2, 4, MATMUL_PARAMETERS, true, {PLAIN, MAY | SCRATCH, PLAIN, PLAIN}},
    [OP_GATHER] = {1, 3, GATHER_PARAMETERS, false, {PLAIN, PANELS, PLAIN}},
    [OP_SCATTER_ADD] = {1, 3, GATHER_PARAMETERS, true, {PANELS, PLAIN, PLAIN}},
    [OP_LOSS] = {2, 6, LOSS_PARAMETERS, true, {PLAIN, PLAIN, PLAIN, PLAIN, PLAIN, PLAIN}},
    [OP_LOSS_SCORE] = {1, 4, LOSS_PARAMETERS, false, {PLAIN, PLAIN, PLAIN, PLAIN}},
    [OP_UPSAMPLE] = {1, 2, UPSAMPLE_PARAMETERS, false, {PLAIN, PLAIN}},
    [OP_UPSAMPLE_GRADIENT] = {1, 2, UPSAMPLE_PARAMETERS, false, {PLAIN, PLAIN}},
    [OP_RANDOM_MASK] = {1, 2, MASK_PARAMETERS, false, {PLAIN, PLAIN}},
    [OP_CONVERT] = {1, 2, CONVERT_PARAMETERS, false, {PLAIN, PLAIN}},
    [OP_PACK_SIGN] = {1, 2, BITS_PARAMETERS, false, {PLAIN, PLAIN}},
    [OP_GATE_BITS] = {1, 3, BITS_PARAMETERS, false, {PLAIN, PLAIN, PLAIN}},
};

/* ---- Parameters, one function a family ----------------------------------------------------------- */

/* How far a kernel's side reaches. */
static int64_t reach_of(int32_t kernel, int32_t dilation)
{
    return ((int64_t)kernel - 1) * dilation + 1;
}

/* Image, kernel, stride and padding, given how far the kernel reaches. Padding smaller than that: in
 * every window's reach the image begins or ends. Kernels step over whole rows and strides, one beyond the last. */
static bool window_in_range(const int32_t *p, int64_t high, int64_t wide)
{
    return positive(p, P_PH) && high <= MOST_SIDE && wide <= MOST_SIDE && p[P_SH] <= MOST_SIDE &&
           p[P_SW] <= MOST_SIDE && between(p[P_PH], 0, (int32_t)high - 1) && between(p[P_PW], 0, (int32_t)wide - 1) &&
           countable(times3((uint64_t)p[P_H] + 2 * (uint64_t)p[P_PH] + (uint64_t)p[P_SH],
                            (uint64_t)p[P_W] + 2 * (uint64_t)p[P_PW] + (uint64_t)p[P_SW], (uint64_t)p[P_C]));
}

/* How many windows fit along a side; 0 if none does. */
static int64_t windows(int64_t side, int64_t reach, int64_t stride, int64_t padding)
{
    const int64_t room = side + 2 * padding - reach;
    return room < 0 ? 0 : room / stride + 1;
}

static bool output_follows(const int32_t *p, int64_t high, int64_t wide, int32_t oh, int32_t ow)
{
    return oh == windows(p[P_H], high, p[P_SH], p[P_PH]) && ow == windows(p[P_W], wide, p[P_SW], p[P_PW]);
}

/* Every channel a group of its own: panels have a form of their own. */
static bool is_depthwise(const int32_t *p)
{
    return p[CONV_G] > 1 && p[CONV_G] == p[P_C] && p[CONV_G] == p[CONV_O];
}

/* Scratch of a convolution; `scratch_bytes` in tape.py is the same. */
static uint64_t scratch_bytes(uint16_t op, const int32_t *p)
{
    const uint64_t h = (uint64_t)p[P_H], w = (uint64_t)p[P_W], c = (uint64_t)p[P_C], kh = (uint64_t)p[P_KH],
                   kw = (uint64_t)p[P_KW], ph = (uint64_t)p[P_PH], pw = (uint64_t)p[P_PW],
                   ow = (uint64_t)p[CONV_OW], o = (uint64_t)p[CONV_O];
    const uint64_t high = (uint64_t)reach_of(p[P_KH], p[CONV_DH]), wide = (uint64_t)reach_of(p[P_KW], p[CONV_DW]);
    const bool padded = ph > 0 || pw > 0, one = kh == 1 && kw == 1;
    const bool plain = p[CONV_DH] == 1 && p[CONV_DW] == 1 && p[CONV_G] == 1;
    if (is_depthwise(p))
        return 0;
    if (op == OP_CONV)
        return padded ? up(floats(times3(high, w + 2 * pw, c)), ALIGNMENT) : 0;
    if (op == OP_CONV_WEIGHT_GRADIENT)
        return padded && c < 8 && plain ? up(floats(times3(h + 2 * ph, w + 2 * pw, c)), ALIGNMENT) : 0;
    const uint64_t ring = one ? 0 : times3(high, ow + 2 * (wide - 1), o);
    const uint64_t panels = times4(one ? 4 * PANEL : 2 * PANEL, kh, kw, o / (uint64_t)p[CONV_G]);
    return up(floats(plus(up(ring, PANEL), panels)), ALIGNMENT);
}

/* `weight_values` in tape.py is the same. */
static uint64_t weight_values(const int32_t *p)
{
    const uint64_t groups = (uint64_t)p[CONV_G], o = (uint64_t)p[CONV_O], c = (uint64_t)p[P_C];
    const uint64_t taps = times((uint64_t)p[P_KH], (uint64_t)p[P_KW]);
    if (is_depthwise(p))
        return times(up(o, PANEL), taps);
    return times4(groups, up(o / groups, PANEL), taps, c / groups);
}

/* Steps of a convolution that are in neither its operations nor its bytes, from above: rows copied into the ring for
 * every image, the ring cleared and the taps placed for every phase of a stride, places looked up for every pixel. A
 * step is about what copying sixteen floats takes. Ordinary convolutions take far fewer than their multiply-adds;
 * a stride, a dilation and a padding of a thousand on an image of one pixel take a thousand times as many. */
enum { STEPS_OF_A_ROW = 8, STEPS_OF_A_PHASE = 128 };

static uint64_t copied_rows(uint64_t rows, uint64_t floats_of_a_row)
{
    return times(rows, STEPS_OF_A_ROW + floats_of_a_row / 16);
}

static uint64_t unstated_steps(uint16_t op, const int32_t *p)
{
    const uint64_t n = (uint64_t)p[P_N], h = (uint64_t)p[P_H], w = (uint64_t)p[P_W], c = (uint64_t)p[P_C],
                   kh = (uint64_t)p[P_KH], kw = (uint64_t)p[P_KW], sh = (uint64_t)p[P_SH], sw = (uint64_t)p[P_SW],
                   ow = (uint64_t)p[CONV_OW], o = (uint64_t)p[CONV_O], groups = (uint64_t)p[CONV_G];
    const uint64_t high = (uint64_t)reach_of(p[P_KH], p[CONV_DH]), wide = (uint64_t)reach_of(p[P_KW], p[CONV_DW]);
    const bool one = kh == 1 && kw == 1;
    if (op == OP_CONV_INPUT_GRADIENT && is_depthwise(p))
        return times4(n, times(h, w), kh, kw);
    if (op == OP_CONV && !is_depthwise(p) && (p[P_PH] > 0 || p[P_PW] > 0))
        return times(n, copied_rows(h + 2 * (uint64_t)p[P_PH], times(w, c)));
    if (op != OP_CONV_INPUT_GRADIENT)
        return 0;
    /* Phases, for each group and each 32 of its channels: how many, and what each does. */
    const uint64_t phases = (sh < h ? sh : h) * (sw < w ? sw : w);
    const uint64_t passes = times3(groups, up(c / groups, 2 * PANEL) / (2 * PANEL), phases);
    const uint64_t rows = (high - 1) / sh + 1, ring = times3(rows, plus(ow, 2 * (wide - 1)), o);
    const uint64_t images = one ? 0 : times(n, copied_rows(h / sh + 1 + rows, times(ow, o)));
    return times(passes, plus(plus(STEPS_OF_A_PHASE + 4 * (sh + sw), one ? 0 : ring / 16), images));
}

/* How weights may be held; a gradient is float32, and so are the few weights of a depthwise convolution. */
static bool number_in_range(const struct record *r)
{
    const int32_t number = r->parameter[CONV_NUMBER];
    if (r->op == OP_CONV_WEIGHT_GRADIENT || is_depthwise(r->parameter))
        return number == NUMBER_FLOAT32;
    return number == NUMBER_FLOAT32 || number == NUMBER_FLOAT16 || number == NUMBER_INT8;
}

static enum rule check_conv(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    if (!positive(p, P_PH) || !positive(p + CONV_DH, CONV_ACT - CONV_DH) ||
        !between(p[CONV_ACT], 0, r->op == OP_CONV ? 1 : 0) || !number_in_range(r) || p[CONV_DH] > MOST_SIDE ||
        p[CONV_DW] > MOST_SIDE)
        return RULE_PARAMETER;
    const int64_t high = reach_of(p[P_KH], p[CONV_DH]), wide = reach_of(p[P_KW], p[CONV_DW]);
    if (!window_in_range(p, high, wide))
        return RULE_PARAMETER;
    const bool plain = p[CONV_DH] == 1 && p[CONV_DW] == 1 && p[CONV_G] == 1;
    if (p[P_C] % p[CONV_G] != 0 || p[CONV_O] % p[CONV_G] != 0 || (!plain && p[P_KH] * p[P_KW] > MOST_TAPS))
        return RULE_GROUPS;
    if (!output_follows(p, high, wide, p[CONV_OH], p[CONV_OW]))
        return RULE_GEOMETRY;
    const uint64_t kernel = times3((uint64_t)p[P_KH], (uint64_t)p[P_KW], (uint64_t)(p[P_C] / p[CONV_G]));
    const uint64_t image = floats(times4((uint64_t)p[P_N], (uint64_t)p[P_H], (uint64_t)p[P_W], (uint64_t)p[P_C]));
    const uint64_t outputs =
        times4((uint64_t)p[P_N], (uint64_t)p[CONV_OH], (uint64_t)p[CONV_OW], (uint64_t)p[CONV_O]);
    const uint64_t padded_o = up((uint64_t)p[CONV_O], PANEL);
    const uint64_t panels = number_bytes(p[CONV_NUMBER], weight_values(p));
    need->operations = times(outputs, kernel);
    need->steps = unstated_steps(r->op, p);
    need->bytes[1] = scratch_bytes(r->op, p);
    switch (r->op) {
    case OP_CONV:
        need->bytes[0] = floats(outputs);
        need->bytes[2] = image;
        need->bytes[3] = panels;
        need->bytes[4] = floats(padded_o);
        break;
    case OP_CONV_INPUT_GRADIENT:
        need->bytes[0] = image;
        need->bytes[2] = floats(outputs);
        need->bytes[3] = panels;
        break;
    default:
        need->bytes[0] = panels;
        need->bytes[2] = image;
        need->bytes[3] = floats(outputs);
    }
    return RULE_NONE;
}

static enum rule check_pool(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    const bool average = r->op == OP_AVERAGE_POOL || r->op == OP_AVERAGE_POOL_GRADIENT;
    if (!positive(p, P_PH) || !window_in_range(p, p[P_KH], p[P_KW]) || !positive(p + POOL_OH, 2))
        return RULE_PARAMETER;
    /* A tap's number is kept in one byte. */
    if (average ? !between(p[POOL_COUNT_PADDING], 0, 1) : p[P_KH] * p[P_KW] > 256)
        return RULE_PARAMETER;
    if (!output_follows(p, p[P_KH], p[P_KW], p[POOL_OH], p[POOL_OW]))
        return RULE_GEOMETRY;
    const uint64_t image = times4((uint64_t)p[P_N], (uint64_t)p[P_H], (uint64_t)p[P_W], (uint64_t)p[P_C]);
    const uint64_t pooled = times4((uint64_t)p[P_N], (uint64_t)p[POOL_OH], (uint64_t)p[POOL_OW], (uint64_t)p[P_C]);
    need->operations = times3(pooled, (uint64_t)p[P_KH], (uint64_t)p[P_KW]);
    switch (r->op) {
    case OP_MAX_POOL:
        need->bytes[0] = floats(pooled);
        need->bytes[1] = pooled;
        need->bytes[2] = floats(image);
        break;
    case OP_MAX_POOL_GRADIENT:
        need->bytes[0] = floats(image);
        need->bytes[1] = floats(pooled);
        need->bytes[2] = pooled;
        need->bytes[3] = floats(pooled);
        break;
    case OP_AVERAGE_POOL:
        need->bytes[0] = floats(pooled);
        need->bytes[1] = floats(image);
        break;
    default:
        need->bytes[0] = floats(image);
        need->bytes[1] = floats(pooled);
    }
    return RULE_NONE;
}

static enum rule check_sum(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    if (!positive(p, 3))
        return RULE_PARAMETER;
    need->operations = times3((uint64_t)p[SUM_S], (uint64_t)p[SUM_R], (uint64_t)p[SUM_C]);
    need->bytes[0] = floats(times((uint64_t)p[SUM_S], (uint64_t)p[SUM_C]));
    need->bytes[1] = floats(need->operations);
    return RULE_NONE;
}

static enum rule check_copy(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    if (!positive(p, 4))
        return RULE_PARAMETER;
    for (int i = COPY_S; i < COPY_PARAMETERS; i++)
        if (p[i] < 0)
            return RULE_PARAMETER;
    need->operations = times4((uint64_t)p[0], (uint64_t)p[1], (uint64_t)p[2], (uint64_t)p[3]);
    need->bytes[0] = box(p + COPY_D, p + COPY_T);
    need->bytes[1] = box(p + COPY_D, p + COPY_S);
    return RULE_NONE;
}

static enum rule check_zero(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    if (!positive(p, 1))
        return RULE_PARAMETER;
    need->operations = up((uint64_t)p[ZERO_BYTES], 4) / 4;
    need->bytes[0] = (uint64_t)p[ZERO_BYTES];
    return RULE_NONE;
}

/* ---- Maps ----------------------------------------------------------------------------------------- */

static int sources_of(uint32_t fn)
{
    switch (fn) {
    case FN_SET:
        return 0;
    case FN_MADD:
    case FN_SELECT:
        return 3;
    case FN_ADD:
    case FN_SUB:
    case FN_MUL:
    case FN_DIV:
    case FN_GATE:
    case FN_MAX:
    case FN_MIN:
        return 2;
    default:
        return 1;
    }
}

static bool has_immediate(uint32_t fn)
{
    return fn == FN_MULI || fn == FN_ADDI || fn == FN_SET;
}

/* Counts that index the parameters; checked before anything else of a map is read. */
bool tacit_map_counts_in_range(const int32_t *p)
{
    return between(p[MAP_INPUTS], 0, OPERANDS - 1) && between(p[MAP_OUTPUTS], 1, OPERANDS - p[MAP_INPUTS]) &&
           between(p[MAP_STEPS], 1, MAP_INSTRUCTIONS);
}

struct signature tacit_signature(const struct record *r)
{
    const int32_t *p = r->parameter;
    if (r->op != OP_MAP)
        return SIGNATURES[r->op];
    return (struct signature){
        .outputs = (uint32_t)p[MAP_OUTPUTS], .operands = (uint32_t)(p[MAP_OUTPUTS] + p[MAP_INPUTS]),
        .parameters = (uint32_t)(MAP_FIXED + 2 * p[MAP_INPUTS] + 2 * p[MAP_STEPS] + p[MAP_OUTPUTS]),
    };
}

static_assert(MAP_FIXED + 2 * (OPERANDS - 1) + 2 * MAP_INSTRUCTIONS + OPERANDS <= PARAMETERS, "every map fits");

static enum rule check_map_inputs(const int32_t *p, struct need *need)
{
    const uint64_t total = (uint64_t)p[MAP_TOTAL], channels = (uint64_t)p[MAP_C];
    const uint64_t examples = total / times(channels, (uint64_t)p[MAP_ROWS]);
    for (int k = 0; k < p[MAP_INPUTS]; k++) {
        const int32_t mode = p[MAP_FIXED + 2 * k], stride = p[MAP_FIXED + 2 * k + 1];
        uint64_t count;
        switch (mode) {
        case MODE_LINEAR:
            count = total;
            break;
        case MODE_SCALAR:
            count = 1;
            break;
        case MODE_CHANNEL:
            count = channels;
            break;
        case MODE_EXAMPLE_CHANNEL:
            if (stride < 0)
                return RULE_MAP_INPUT;
            count = plus(times(examples - 1, (uint64_t)stride), channels);
            break;
        case MODE_EXAMPLE:
            count = examples;
            break;
        case MODE_PERIODIC:
            if (stride < 1)
                return RULE_MAP_INPUT;
            count = (uint64_t)stride < total ? (uint64_t)stride : total;
            break;
        default:
            return RULE_MAP_INPUT;
        }
        if (stride != 0 && mode != MODE_EXAMPLE_CHANNEL && mode != MODE_PERIODIC)
            return RULE_MAP_INPUT;
        need->bytes[p[MAP_OUTPUTS] + k] = floats(count);
    }
    return RULE_NONE;
}

static enum rule check_map_program(const int32_t *p)
{
    const int32_t *step = p + MAP_FIXED + 2 * p[MAP_INPUTS];
    const int32_t *output = step + 2 * p[MAP_STEPS];
    const uint32_t inputs = (uint32_t)p[MAP_INPUTS];
    bool written[256] = {false}; /* by any number that fits a register's byte */
    for (uint32_t k = 0; k < inputs; k++)
        written[k] = true;
    for (int k = 0; k < p[MAP_STEPS]; k++) {
        const struct instruction i = map_instruction(step + 2 * k);
        if (i.fn >= FNS)
            return RULE_MAP_INSTRUCTION;
        const int sources = sources_of(i.fn);
        if ((sources < 1 && i.a != 0) || (sources < 2 && i.b != 0) ||
            (sources < 3 && !has_immediate(i.fn) && i.second != 0))
            return RULE_MAP_INSTRUCTION;
        if (sources == 3 && !between(i.second, 0, MAP_REGISTERS - 1))
            return RULE_MAP_REGISTER;
        if ((sources >= 1 && !written[i.a]) || (sources >= 2 && !written[i.b]) || (sources == 3 && !written[i.second]))
            return RULE_MAP_REGISTER;
        if (i.to < inputs || i.to >= MAP_REGISTERS)
            return RULE_MAP_REGISTER;
        written[i.to] = true;
    }
    for (int k = 0; k < p[MAP_OUTPUTS]; k++)
        if (!between(output[k], (int32_t)inputs, MAP_REGISTERS - 1) || !written[output[k]])
            return RULE_MAP_REGISTER;
    return RULE_NONE;
}

static enum rule check_map(const struct record *r, struct need *need)
{
    const int32_t *p = r->parameter;
    if (!positive(p, 3))
        return RULE_PARAMETER;
    const uint64_t example = times((uint64_t)p[MAP_C], (uint64_t)p[MAP_ROWS]);
    if ((uint64_t)p[MAP_TOTAL] % example != 0)
        return RULE_MAP_SHAPE;
    const enum rule rule = check_map_inputs(p, need);
    if (rule != RULE_NONE)
        return rule;
    for (int k = 0; k < p[MAP_OUTPUTS]; k++)
        need->bytes[k] = floats((uint64_t)p[MAP_TOTAL]);
    need->operations = times((uint64_t)p[MAP_TOTAL], (uint64_t)p[MAP_STEPS]);
    return check_map_program(p);
}

enum rule tacit_check_parameters(const struct record *r, struct need *need)
{
    switch (r->op) {
    case OP_CONV:
    case OP_CONV_INPUT_GRADIENT:
    case OP_CONV_WEIGHT_GRADIENT:
        return check_conv(r, need);
    case OP_MAX_POOL:
    case OP_MAX_POOL_GRADIENT:
    case OP_AVERAGE_POOL:
    case OP_AVERAGE_POOL_GRADIENT:
        return check_pool(r, need);
    case OP_SUM:
        return check_sum(r, need);
    case OP_MAP:
        return check_map(r, need);
    case OP_COPY:
        return check_copy(r, need);
    case OP_ZERO:
        return check_zero(r, need);
    default:
        return tacit_check_layer(r, need);
    }
}

/* ---- Operands ------------------------------------------------------------------------------------- */

static bool is_absent(const struct operand *o)
{
    return o->region == ABSENT;
}

/* Absent means nothing else is said about it. */
static bool is_clean(const struct operand *o)
{
    return o->reserved == 0 && (!is_absent(o) || (o->offset == 0 && o->extent == 0));
}

/* Regions a kind may write, one bit each. The scratch of an operation is written as well. */
static bool writable(uint32_t kind, uint32_t region)
{
    static const uint32_t REGIONS_OF[KINDS] = {
        [TACIT_PREFIX] = 1u << TACIT_ARENA | 1u << TACIT_KEPT,
        [TACIT_TRAIN] = 1u << TACIT_ARENA | 1u << TACIT_GRADIENT | 1u << TACIT_LOSS,
        [TACIT_APPLY] = 1u << TACIT_ARENA | 1u << TACIT_STATE | 1u << TACIT_MOMENT,
        [TACIT_EVALUATE] = 1u << TACIT_ARENA | 1u << TACIT_OUTPUT,
        [TACIT_PREDICT] = 1u << TACIT_ARENA | 1u << TACIT_OUTPUT,
    };
    return (REGIONS_OF[kind] >> region & 1) != 0;
}

static enum rule check_place(const struct header *header, const struct operand *o, uint8_t trait, uint64_t need,
                             bool output)
{
    if (o->region >= REGIONS_USED)
        return RULE_REGION;
    const uint64_t size = header->region[o->region];
    if (o->offset > size || o->extent > size - o->offset)
        return RULE_BOUNDS;
    if (o->offset % ((trait & (PANELS | SCRATCH)) ? ALIGNMENT : 4) != 0)
        return RULE_ALIGNED;
    if (need > o->extent || o->extent == 0) /* scratch that is not needed: some bytes, or absent */
        return RULE_EXTENT;
    if (output && !writable(header->kind, o->region))
        return RULE_WRITABLE;
    return RULE_NONE;
}

/* Both lie inside their regions, so no end overflows. */
static bool overlap(const struct operand *a, const struct operand *b)
{
    return a->region == b->region && a->offset < b->offset + b->extent && b->offset < a->offset + a->extent;
}

/* Whether an output may stand exactly where an input stands. */
static bool may_stand_on(const struct record *r, const struct signature *s, uint32_t output, uint32_t input)
{
    switch (r->op) {
    case OP_MAP:
        return input >= s->outputs && r->parameter[MAP_FIXED + 2 * (input - s->outputs)] == MODE_LINEAR;
    case OP_NORM:
        return output == 0 && input == 2;
    case OP_NORM_GRADIENT:
        return output == 2 && input == 3 && r->parameter[NORM_ADD] == 0;
    case OP_SOFTMAX:
    case OP_SOFTMAX_GRADIENT:
    case OP_GATE_BITS:
        return output == 0 && input == 1;
    default:
        return false;
    }
}

static bool in_place(const struct record *r, const struct signature *s, uint32_t output, uint32_t input)
{
    const struct operand *a = &r->operand[output], *b = &r->operand[input];
    return may_stand_on(r, s, output, input) && a->offset == b->offset && a->extent == b->extent;
}

static enum rule check_overlaps(const struct record *r, const struct signature *s)
{
    for (uint32_t i = 0; i < s->outputs; i++)
        for (uint32_t j = i + 1; j < s->operands; j++) {
            if (is_absent(&r->operand[i]) || is_absent(&r->operand[j]))
                continue;
            if (overlap(&r->operand[i], &r->operand[j]) && !in_place(r, s, i, j))
                return RULE_OVERLAP;
        }
    return RULE_NONE;
}

static enum rule check_operands(const struct header *header, const struct record *r, const struct signature *s,
                                const struct need *need)
{
    for (uint32_t i = 0; i < s->operands; i++) {
        const struct operand *o = &r->operand[i];
        const bool idle_scratch = (s->trait[i] & SCRATCH) && need->bytes[i] == 0;
        if (is_absent(o)) {
            const bool optional = s->trait[i] & SCRATCH ? idle_scratch : s->trait[i] & MAY;
            if (!optional)
                return RULE_REQUIRED;
            continue;
        }
        const enum rule rule = check_place(header, o, s->trait[i], need->bytes[i], i < s->outputs);
        if (rule != RULE_NONE)
            return rule;
    }
    return check_overlaps(r, s);
}

/* ---- Records and the tape ------------------------------------------------------------------------- */

struct cost {
    uint64_t operations, moved;
};

/* Bytes moved: what each present operand needs, and the first output once more where it is added to.
 * `record_cost` in tape.py is the same. */
static uint64_t moved_by(const struct record *r, const struct signature *s, const struct need *need)
{
    uint64_t moved = r->accumulate != ACCUMULATE_NO ? need->bytes[0] : 0;
    for (uint32_t i = 0; i < s->operands; i++)
        if (!is_absent(&r->operand[i]))
            moved = plus(moved, need->bytes[i]);
    return moved;
}

/* What a record does beside what it counts is at most eight times that, or next to nothing. */
enum { NEXT_TO_NOTHING = 16384 };

static bool keeps_pace(const struct cost *cost, uint64_t steps)
{
    return steps <= plus(times(8, plus(cost->operations, cost->moved)), NEXT_TO_NOTHING);
}

static enum rule check_record(const struct header *header, const struct record *r, struct cost *cost)
{
    if (r->op < 1 || r->op >= OPS)
        return RULE_OPERATION;
    if (r->op == OP_MAP && !tacit_map_counts_in_range(r->parameter))
        return RULE_MAP_SHAPE;
    const struct signature s = tacit_signature(r);
    if (r->accumulate > ACCUMULATE_UNLESS_FIRST || (r->accumulate != ACCUMULATE_NO && !s.accumulates))
        return RULE_ACCUMULATE;
    if (r->operands != s.operands)
        return RULE_OPERAND_COUNT;
    for (uint32_t i = 0; i < OPERANDS; i++)
        if (!is_clean(&r->operand[i]) || (i >= s.operands && !is_absent(&r->operand[i])))
            return RULE_RECORD_RESERVED;
    for (uint32_t i = s.parameters; i < PARAMETERS; i++)
        if (r->parameter[i] != 0)
            return RULE_RECORD_RESERVED;
    struct need need = {{0}, 0, 0};
    enum rule rule = tacit_check_parameters(r, &need);
    if (rule == RULE_NONE)
        rule = check_operands(header, r, &s, &need);
    if (rule != RULE_NONE)
        return rule;
    const struct cost own = {need.operations, moved_by(r, &s, &need)};
    if (!keeps_pace(&own, need.steps))
        return RULE_PACE;
    cost->operations = plus(cost->operations, own.operations);
    cost->moved = plus(cost->moved, own.moved);
    return RULE_NONE;
}

static bool all_zero(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

/* Below 2^47, and below what this machine can index. */
static bool region_in_range(uint64_t size, uint32_t region)
{
    const uint64_t most = PTRDIFF_MAX < (INT64_C(1) << 47) ? (uint64_t)PTRDIFF_MAX : UINT64_C(1) << 47;
    return region < REGIONS_USED ? size < most : size == 0;
}

static struct verdict refused(enum rule rule, int32_t record)
{
    return (struct verdict){rule, record};
}

struct verdict tacit_verify_header(const struct header *header, uint64_t length)
{
    if (memcmp(header->magic, "TACITAPE", sizeof header->magic) != 0)
        return refused(RULE_MAGIC, -1);
    if (header->version != FORMAT_VERSION)
        return refused(RULE_VERSION, -1);
    if (header->record_size != RECORD_SIZE)
        return refused(RULE_RECORD_SIZE, -1);
    if (header->records > MOST_RECORDS)
        return refused(RULE_RECORD_COUNT, -1);
    if (length != HEADER_SIZE + (uint64_t)header->records * RECORD_SIZE)
        return refused(RULE_LENGTH, -1);
    if (header->kind >= KINDS)
        return refused(RULE_KIND, -1);
    if (!all_zero(header->reserved, sizeof header->reserved))
        return refused(RULE_HEADER_RESERVED, -1);
    for (uint32_t i = 0; i < REGIONS; i++)
        if (!region_in_range(header->region[i], i))
            return refused(RULE_REGION_SIZE, -1);
    return refused(RULE_NONE, -1);
}

struct verdict tacit_verify_records(const struct header *header, const struct record *records,
                                    const struct tacit_limits *limits)
{
    struct cost cost = {0, 0};
    for (uint32_t i = 0; i < header->records; i++) {
        const enum rule rule = check_record(header, &records[i], &cost);
        if (rule != RULE_NONE)
            return refused(rule, (int32_t)i);
    }
    /* A total that did not fit 63 bits is refused whatever the header says. */
    if (cost.operations != header->operations || cost.moved != header->moved || cost.operations > INT64_MAX ||
        cost.moved > INT64_MAX)
        return refused(RULE_TOTALS, -1);
    if (limits && (cost.operations > limits->most_operations || cost.moved > limits->most_bytes))
        return refused(RULE_LIMITS, -1);
    return refused(RULE_NONE, -1);
}

/* ---- The rules in words --------------------------------------------------------------------------- */

#define RULE_NAME(NAME, name, sentence) [RULE_##NAME] = name,
#define RULE_SENTENCE(NAME, name, sentence) [RULE_##NAME] = sentence,
static const char *const NAMES[RULES_END] = {RULES(RULE_NAME)};
static const char *const SENTENCES[RULES_END] = {RULES(RULE_SENTENCE)};

int tacit_rule_count(void)
{
    return RULES_END - 1;
}

const char *tacit_rule_name(int rule)
{
    return rule >= 1 && rule < RULES_END ? NAMES[rule] : NULL;
}

const char *tacit_rule_sentence(int rule)
{
    return rule >= 1 && rule < RULES_END ? SENTENCES[rule] : NULL;
}
