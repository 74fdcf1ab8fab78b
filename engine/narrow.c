/* Values in fewer bits, bits alone, and random masks. */
#include "kernels.h"
#include "vector.h"

/* ---- One value -------------------------------------------------------------------------------------- */

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* To nearest, ties to even. NaN stays one. */
static uint16_t to_bfloat16(float value)
{
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float from_bfloat16(uint16_t half)
{
    return float_of((int32_t)((uint32_t)half << 16));
}

/* By whole numbers alone: the processor flushes what is too small for a normal float. */
static uint16_t to_float16(float value)
{
    const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (size >= 0x477ff000) /* 65520, halfway beyond the largest */
        return (uint16_t)(sign | 0x7c00);
    if (size >= 0x38800000) /* 2^-14, the smallest normal one */
        return (uint16_t)(sign | ((size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13));
    if (size < 0x33000000) /* 2^-25, half of the smallest */
        return (uint16_t)sign;
    const uint32_t digits = (size & 0x7fffff) | 0x800000, shift = 126 - (size >> 23);
    const uint32_t half = 1u << (shift - 1), whole = digits >> shift;
    return (uint16_t)(sign | (whole + ((digits & (2 * half - 1)) + (whole & 1) > half)));
}

static float from_float16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, size = half & 0x7fff;
    if (size >= 0x7c00)
        return float_of((int32_t)(sign | 0x7f800000 | (size & 0x3ff) << 13));
    if (size < 0x400) /* size * 2^-24 */
        return float_of((int32_t)(sign | bits_of((float)size * 0x1p-24f)));
    return float_of((int32_t)(sign | ((size << 13) + 0x38000000)));
}

/* ---- Rows of values ------------------------------------------------------------------------------------ */

static float largest_size(const float *x, ptrdiff_t count)
{
    float largest = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        const float size = __builtin_fabsf(x[i]);
        if (!(size <= largest)) /* NaN as well, and then it stays */
            largest = largest == largest ? size : largest;
    }
    return largest;
}

/* What is not finite makes the scale so, and every value of the block comes back NaN: 0 * inf. */
static void to_int8(float *scale, int8_t *y, const float *x, ptrdiff_t count)
{
    const float largest = largest_size(x, count);
    *scale = largest / 127.0f;
    const bool finite = largest <= 0x1.fffffep127f;
    const float rounding = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    for (ptrdiff_t i = 0; i < count; i++) {
        const float value = finite && *scale > 0 ? x[i] / *scale : 0;
        y[i] = (int8_t)(int32_t)((value + rounding) - rounding);
    }
}

static void narrow_row(int32_t to, void *y, const float *x, ptrdiff_t count)
{
    uint16_t *half = y;
    if (to == NUMBER_BFLOAT16) {
        for (ptrdiff_t i = 0; i < count; i++)
            half[i] = to_bfloat16(x[i]);
    } else if (to == NUMBER_FLOAT16) {
        for (ptrdiff_t i = 0; i < count; i++)
            half[i] = to_float16(x[i]);
    } else {
        const ptrdiff_t blocks = parts(count, SCALED);
        float *scale = y;
        int8_t *values = (int8_t *)(scale + blocks);
        for (ptrdiff_t b = 0; b < blocks; b++)
            to_int8(scale + b, values + b * SCALED, x + b * SCALED, smaller(SCALED, count - b * SCALED));
    }
}

static void widen_row(int32_t from, float *y, const void *x, ptrdiff_t count)
{
    const uint16_t *half = x;
    if (from == NUMBER_BFLOAT16) {
        for (ptrdiff_t i = 0; i < count; i++)
            y[i] = from_bfloat16(half[i]);
    } else if (from == NUMBER_FLOAT16) {
        for (ptrdiff_t i = 0; i < count; i++)
            y[i] = from_float16(half[i]);
    } else {
        const float *scale = x;
        const int8_t *values = (const int8_t *)(scale + parts(count, SCALED));
        for (ptrdiff_t b = 0; b * SCALED < count; b++)
            for (ptrdiff_t i = b * SCALED; i < smaller(count, (b + 1) * SCALED); i++)
                y[i] = (float)values[i] * scale[b];
    }
}

static ptrdiff_t row_bytes(int32_t number, ptrdiff_t count)
{
    if (number == NUMBER_FLOAT32)
        return 4 * count;
    return number == NUMBER_INT8 ? up(4 * parts(count, SCALED) + count, 4) : up(2 * count, 4);
}

void KERNEL(convert)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    const ptrdiff_t count = p[CONVERT_COUNT];
    const ptrdiff_t y_step = row_bytes(p[CONVERT_TO], count), x_step = row_bytes(p[CONVERT_FROM], count);
    uint8_t *y = operand[0];
    const uint8_t *x = operand[1];
    for (ptrdiff_t r = 0; r < p[CONVERT_ROWS]; r++, y += y_step, x += x_step)
        if (p[CONVERT_FROM] == NUMBER_FLOAT32) {
            memset(y + y_step - 4, 0, 4); /* a row's end is a multiple of four */
            narrow_row(p[CONVERT_TO], y, (const float *)x, count);
        } else
            widen_row(p[CONVERT_FROM], (float *)y, x, count);
}

/* ---- Bits ------------------------------------------------------------------------------------------------ */

void KERNEL(pack_sign)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    uint8_t *bits = operand[0];
    const float *x = operand[1];
    for (ptrdiff_t i = 0; i < p[BITS_COUNT]; i += 8) {
        unsigned byte = 0;
        for (ptrdiff_t j = 0; j < smaller(8, p[BITS_COUNT] - i); j++)
            byte |= (unsigned)!(x[i + j] <= 0) << j;
        bits[i / 8] = (uint8_t)byte;
    }
}

void KERNEL(gate_bits)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    float *gx = operand[0];
    const float *g = operand[1];
    const uint8_t *bits = operand[2];
    ptrdiff_t i = 0;
    for (; i + LANES <= p[BITS_COUNT]; i += LANES) {
        integers lane;
        UNROLL for (int j = 0; j < LANES; j++) lane[j] = bits[(i + j) / 8] >> (i + j) % 8 & 1;
        store(gx + i, clear(lane == 0, load(g + i)));
    }
    for (; i < p[BITS_COUNT]; i++)
        gx[i] = bits[i / 8] >> i % 8 & 1 ? g[i] : 0;
}

/* ---- Random masks ---------------------------------------------------------------------------------------- */

/* Philox4x32-10 of Salmon and others, "Parallel random numbers: as easy as 1, 2, 3" (2011). */
static void philox(uint32_t out[4], uint32_t low, uint32_t high, uint32_t stream, uint32_t counter)
{
    uint32_t c0 = counter, c1 = 0, c2 = stream, c3 = 0;
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xd2511f53u * c0, b = (uint64_t)0xcd9e8d57u * c2;
        const uint32_t next0 = (uint32_t)(b >> 32) ^ c1 ^ low, next2 = (uint32_t)(a >> 32) ^ c3 ^ high;
        c0 = next0;
        c1 = (uint32_t)b;
        c2 = next2;
        c3 = (uint32_t)a;
        low += 0x9e3779b9u;
        high += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void KERNEL(random_mask)(const int32_t *p, void *const *operand, bool add)
{
    (void)add;
    float *y = operand[0];
    uint32_t seed[2], word[4];
    memcpy(seed, operand[1], sizeof seed);
    const float probability = float_of(p[MASK_P]), kept = 1.0f / (1.0f - probability);
    const uint32_t bound = (uint32_t)(probability * 0x1p32f);
    for (ptrdiff_t i = 0; i < p[MASK_COUNT]; i += 4) {
        philox(word, seed[0], seed[1], (uint32_t)p[MASK_STREAM], (uint32_t)(i / 4));
        for (ptrdiff_t j = 0; j < smaller(4, p[MASK_COUNT] - i); j++)
            y[i + j] = word[j] < bound ? 0 : kept;
    }
}
