/* Element-wise arithmetic: a register program, played over blocks that stay in the nearest cache.
 *
 * A register is a block of floats. A linear input is read where it lies; what is broadcast is spread
 * over its register once: scalars and channels for the whole map, per-example values once an example
 * (spread for every block they cost more than the arithmetic). With more channels than a block holds,
 * a block is a part of one row of channels and is read where it lies, too.
 *
 * Instructions work on whole vectors: lanes beyond the block compute something nobody reads. */
#include "elementary.h"
#include "kernels.h"

enum { BLOCK = 256 };

struct map {
    ptrdiff_t total, channels, example; /* elements in all, of a row, of an example */
    int inputs, outputs, steps;
    const int32_t *input, *step, *output; /* words in the parameters */
    uint32_t constant;                    /* a bit for each instruction whose result is the same for every block */
    void *const *to;
    void *const *from;
};

static struct map map_of(const int32_t *p, void *const *operand)
{
    struct map m = {
        .total = p[MAP_TOTAL], .channels = p[MAP_C], .example = (ptrdiff_t)p[MAP_C] * p[MAP_ROWS],
        .inputs = p[MAP_INPUTS], .outputs = p[MAP_OUTPUTS], .steps = p[MAP_STEPS],
        .input = p + MAP_FIXED,
    };
    m.step = m.input + 2 * m.inputs;
    m.output = m.step + 2 * m.steps;
    m.to = operand;
    m.from = operand + m.outputs;
    return m;
}

typedef float registers[MAP_REGISTERS][BLOCK];

/* Fills `length` floats with `count` values over and over, or with zero beyond the last whole time. */
static void spread(float *to, ptrdiff_t length, const float *values, ptrdiff_t count)
{
    ptrdiff_t i = 0;
    if (count == 1)
        for (; i < length; i++)
            to[i] = *values;
    for (; i + count <= length; i += count)
        memcpy(to + i, values, (size_t)count * sizeof(float));
    for (; i < length; i++)
        to[i] = 0;
}

/* `n` values where they lie, if a whole vector more or less may be read there; else a copy. */
static const float *whole_vectors(float *copy, const float *values, ptrdiff_t n, ptrdiff_t available)
{
    if (up(n, LANES) <= available)
        return values;
    memcpy(copy, values, (size_t)n * sizeof(float));
    memset(copy + n, 0, (size_t)(up(n, LANES) - n) * sizeof(float));
    return copy;
}

/* `n` values from place `at` on, of `count` values over and over. */
static const float *repeated(float *copy, const float *values, ptrdiff_t at, ptrdiff_t n, ptrdiff_t count)
{
    if (at + up(n, LANES) <= count)
        return values + at;
    for (ptrdiff_t i = 0, taken; i < n; i += taken, at = 0) {
        taken = smaller(n - i, count - at);
        memcpy(copy + i, values + at, (size_t)taken * sizeof(float));
    }
    memset(copy + n, 0, (size_t)(up(n, LANES) - n) * sizeof(float));
    return copy;
}

/* Reads the inputs that have one value or one row of values for the whole map. */
static void spread_constants(const struct map *m, registers r, const float **at, bool long_rows)
{
    for (int k = 0; k < m->inputs; k++) {
        const int32_t mode = m->input[2 * k];
        at[k] = r[k];
        if (mode == MODE_SCALAR)
            spread(r[k], BLOCK, m->from[k], 1);
        else if (mode == MODE_CHANNEL && !long_rows)
            spread(r[k], BLOCK, m->from[k], m->channels);
    }
}

static void spread_example(const struct map *m, registers r, ptrdiff_t n, ptrdiff_t length, bool long_rows)
{
    for (int k = 0; k < m->inputs; k++) {
        const int32_t mode = m->input[2 * k], stride = m->input[2 * k + 1];
        if (mode == MODE_EXAMPLE)
            spread(r[k], length, (const float *)m->from[k] + n, 1);
        else if (mode == MODE_EXAMPLE_CHANNEL && !long_rows)
            spread(r[k], length, (const float *)m->from[k] + n * stride, m->channels);
    }
}

/* Points at what changes from block to block: elements [i, i + n), which lie in example e. */
static void point_at_block(const struct map *m, registers r, const float **at, ptrdiff_t i, ptrdiff_t n,
                           ptrdiff_t e, bool long_rows)
{
    const ptrdiff_t c = i % m->channels;
    for (int k = 0; k < m->inputs; k++) {
        const int32_t mode = m->input[2 * k], stride = m->input[2 * k + 1];
        const float *x = m->from[k];
        if (mode == MODE_LINEAR)
            at[k] = whole_vectors(r[k], x + i, n, m->total - i);
        else if (mode == MODE_CHANNEL && long_rows)
            at[k] = whole_vectors(r[k], x + c, n, m->channels - c);
        else if (mode == MODE_EXAMPLE_CHANNEL && long_rows)
            at[k] = whole_vectors(r[k], x + e * stride + c, n, m->channels - c);
        else if (mode == MODE_PERIODIC)
            at[k] = repeated(r[k], x, i % stride, n, smaller(stride, m->total));
    }
}

/* Does once what would set a register to the same number for every block. */
static void set_constants(struct map *m, registers r, const float **at)
{
    for (int k = 0; k < m->steps; k++) {
        const struct instruction step = map_instruction(m->step + 2 * k);
        bool alone = step.fn == FN_SET && step.to >= (uint32_t)m->inputs;
        for (int other = 0; other < m->steps; other++)
            alone = alone && (other == k || map_instruction(m->step + 2 * other).to != step.to);
        for (int o = 0; o < m->outputs; o++)
            alone = alone && m->output[o] != (int32_t)step.to;
        if (!alone)
            continue;
        const float value = float_of(step.second);
        spread(r[step.to], BLOCK, &value, 1);
        at[step.to] = r[step.to];
        m->constant |= UINT32_C(1) << k;
    }
}

/* What a step costs beside its arithmetic counts here, and gcc does not unroll by itself. */
#ifdef __clang__
#define BY_FOUR
#else
#define BY_FOUR _Pragma("GCC unroll 4")
#endif

#define EACH(EXPRESSION)                                                                           \
    BY_FOUR for (ptrdiff_t i = 0; i < n; i += LANES) {                                             \
        const vector a = load(x + i), b = load(y + i);                                             \
        (void)a, (void)b;                                                                          \
        store(to + i, EXPRESSION);                                                                 \
    }                                                                                              \
    break

/* `to` may be any of the sources: each vector is read before it is written. */
static void instruct(enum fn fn, float *to, const float *x, const float *y, const float *z, float imm, ptrdiff_t n)
{
    switch (fn) {
    case FN_ADD: EACH(a + b);
    case FN_SUB: EACH(a - b);
    case FN_MUL: EACH(a * b);
    case FN_DIV: EACH(a / b);
    case FN_MADD: EACH(a * b + load(z + i));
    case FN_MULI: EACH(a * splat(imm));
    case FN_ADDI: EACH(a + splat(imm));
    case FN_RELU: EACH(relu(a));
    case FN_GATE: EACH(clear((integers)(b <= 0), a));
    case FN_NEG: EACH((vector)((integers)a ^ INT32_MIN));
    case FN_ABS: EACH((vector)((integers)a & INT32_MAX));
    /* where a is NaN, a; where b is, the comparison is false and it is b */
    case FN_MAX: EACH(select((integers)(a > b) | (integers)(a != a), a, b));
    case FN_MIN: EACH(select((integers)(a < b) | (integers)(a != a), a, b));
    case FN_EXP: EACH(exponential(a));
    case FN_LOG: EACH(logarithm(a));
    case FN_TANH: EACH(hyperbolic_tangent(a));
    case FN_SIGMOID: EACH(sigmoid(a));
    case FN_SQRT: EACH(square_root(a));
    case FN_RECIPROCAL: EACH(1.0f / a);
    case FN_SET: EACH(splat(imm));
    case FN_ERF: EACH(error_function(a));
    case FN_SELECT: EACH(select((integers)(a != a), a, select((integers)(a > 0), b, load(z + i))));
    case FNS: break;
    }
}

/* Plays the instructions on one block and stores its outputs. The last instruction writes straight
 * into the output it belongs to, where that takes whole vectors; an output stands on a linear input or
 * on none, so nothing still to be read is written over. */
static void play_block(const struct map *m, registers r, const float **at, ptrdiff_t i, ptrdiff_t n)
{
    for (int k = 0; k < m->steps; k++) {
        if (m->constant >> k & 1)
            continue;
        const struct instruction step = map_instruction(m->step + 2 * k);
        const bool immediate = step.fn == FN_MULI || step.fn == FN_ADDI || step.fn == FN_SET;
        const float *z = step.fn == FN_MADD || step.fn == FN_SELECT ? at[step.second] : NULL;
        float *to = r[step.to];
        if (k == m->steps - 1 && n % LANES == 0)
            for (int o = 0; o < m->outputs; o++)
                if (m->output[o] == (int32_t)step.to)
                    to = (float *)m->to[o] + i;
        instruct(step.fn, to, at[step.a], at[step.b], z, immediate ? float_of(step.second) : 0, n);
        at[step.to] = to;
    }
    for (int o = 0; o < m->outputs; o++) {
        float *to = (float *)m->to[o] + i;
        if (at[m->output[o]] != to)
            memcpy(to, at[m->output[o]], (size_t)n * sizeof(float));
    }
}

void KERNEL(map)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    struct map m = map_of(p, operand);
    bool by_channel = false, by_example = false;
    for (int k = 0; k < m.inputs; k++) {
        const int32_t mode = m.input[2 * k];
        by_channel |= mode == MODE_CHANNEL || mode == MODE_EXAMPLE_CHANNEL;
        by_example |= mode == MODE_EXAMPLE || mode == MODE_EXAMPLE_CHANNEL;
    }
    const bool long_rows = by_channel && m.channels > BLOCK;
    const ptrdiff_t block = by_channel && !long_rows ? BLOCK / m.channels * m.channels : BLOCK;
    const ptrdiff_t segment = by_example ? m.example : m.total;

    registers r;
    const float *at[MAP_REGISTERS];
    for (int k = 0; k < MAP_REGISTERS; k++)
        at[k] = r[0]; /* an instruction's unused sources point at register 0 */
    spread_constants(&m, r, at, long_rows);
    set_constants(&m, r, at);
    for (ptrdiff_t start = 0; start < m.total; start += segment) {
        const ptrdiff_t e = start / m.example;
        if (by_example)
            spread_example(&m, r, e, up(smaller(block, segment), LANES), long_rows);
        ptrdiff_t n;
        for (ptrdiff_t i = start; i < start + segment; i += n) {
            n = smaller(block, start + segment - i);
            if (long_rows)
                n = smaller(n, m.channels - i % m.channels);
            point_at_block(&m, r, at, i, n, e, long_rows);
            play_block(&m, r, at, i, n);
        }
    }
}
