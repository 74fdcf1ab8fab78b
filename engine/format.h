/* The tape's bytes, as C sees them. src/tacit/plan/tape.py says what each operation computes. */
#ifndef TACIT_FORMAT_H
#define TACIT_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "A tape is little-endian and is played where it lies: this machine's byte order is not supported."
#endif

enum {
    FORMAT_VERSION = 1,
    HEADER_SIZE = 256,
    RECORD_SIZE = 512,
    OPERANDS = 8,
    PARAMETERS = 78,
    REGIONS = 16,
    REGIONS_USED = 15,
    KINDS = 5,
    MOST_RECORDS = 65536,
    PANEL = 16,       /* floats; the width of weights, whatever the instruction set */
    ALIGNMENT = 64,   /* bytes */
    MOST_SIDE = 1024, /* the largest reach of a kernel, and stride */
    MOST_TAPS = 1024, /* of a kernel with groups or dilation */
    SCALED = 64,      /* values of an int8 row that share a scale */
    MAP_REGISTERS = 24,
    MAP_INSTRUCTIONS = 24,
};

#define ABSENT UINT32_C(0xffffffff)

struct header {
    char magic[8];
    uint32_t version;
    uint32_t kind;
    uint32_t records;
    uint32_t record_size;
    uint64_t operations;
    uint64_t moved;
    uint64_t region[REGIONS];
    uint8_t reserved[88];
};

struct operand {
    uint32_t region;
    uint32_t reserved;
    uint64_t offset;
    uint64_t extent;
};

struct record {
    uint16_t op;
    uint16_t accumulate;
    uint32_t operands;
    struct operand operand[OPERANDS];
    int32_t parameter[PARAMETERS];
};

static_assert(sizeof(struct header) == HEADER_SIZE, "the header has no padding");
static_assert(sizeof(struct operand) == 24, "an operand has no padding");
static_assert(sizeof(struct record) == RECORD_SIZE, "a record has no padding");

enum op {
    OP_CONV = 1,
    OP_CONV_INPUT_GRADIENT,
    OP_CONV_WEIGHT_GRADIENT,
    OP_MAX_POOL,
    OP_MAX_POOL_GRADIENT,
    OP_AVERAGE_POOL,
    OP_AVERAGE_POOL_GRADIENT,
    OP_SUM,
    OP_MAP,
    OP_CROSS_ENTROPY,
    OP_CROSS_ENTROPY_SCORE,
    OP_COPY,
    OP_ZERO,
    OP_NORM,
    OP_NORM_GRADIENT,
    OP_SOFTMAX,
    OP_SOFTMAX_GRADIENT,
    OP_MATMUL,
    OP_GATHER,
    OP_SCATTER_ADD,
    OP_LOSS,
    OP_LOSS_SCORE,
    OP_UPSAMPLE,
    OP_UPSAMPLE_GRADIENT,
    OP_RANDOM_MASK,
    OP_CONVERT,
    OP_PACK_SIGN,
    OP_GATE_BITS,
    OPS,
};

enum accumulate { ACCUMULATE_NO, ACCUMULATE_YES, ACCUMULATE_UNLESS_FIRST };

/* The places of a record's parameters. Convolutions and pools agree on the first ten. */
enum { P_N, P_H, P_W, P_C, P_KH, P_KW, P_SH, P_SW, P_PH, P_PW };
enum { CONV_DH = 10, CONV_DW, CONV_G, CONV_OH, CONV_OW, CONV_O, CONV_ACT, CONV_NUMBER, CONV_PARAMETERS };
enum { POOL_OH = 10, POOL_OW, POOL_PARAMETERS, POOL_COUNT_PADDING = POOL_PARAMETERS };
enum { SUM_S, SUM_R, SUM_C, SUM_SCALE, SUM_PARAMETERS };
enum { CE_N, CE_C, CE_T, CE_IGNORE, CE_SCORE_PARAMETERS, CE_SMOOTHING = CE_SCORE_PARAMETERS, CE_SCALE, CE_PARAMETERS };
enum { COPY_D, COPY_S = 4, COPY_T = 8, COPY_PARAMETERS = 12 };
enum { ZERO_BYTES, ZERO_PARAMETERS };
enum { NORM_N, NORM_R, NORM_C, NORM_G, NORM_EPS, NORM_PARAMETERS, NORM_ADD = NORM_EPS };
enum { SOFTMAX_ROWS, SOFTMAX_C, SOFTMAX_CAUSAL, SOFTMAX_PARAMETERS };
enum { MATMUL_OUTER, MATMUL_INNER, MATMUL_M, MATMUL_N, MATMUL_K };
/* Each of these is where four strides begin: batch outer, batch inner, row, column. */
enum { MATMUL_A = 5, MATMUL_B = 9, MATMUL_Y = 13, MATMUL_SCALE = 17, MATMUL_PARAMETERS };
enum { GATHER_I, GATHER_V, GATHER_C, GATHER_INDEX_STEP, GATHER_ROW_STEP, GATHER_PARAMETERS };
enum { LOSS_N, LOSS_C, LOSS_MEASURE, LOSS_DELTA, LOSS_SCALE, LOSS_PARAMETERS };
enum { UPSAMPLE_N, UPSAMPLE_H, UPSAMPLE_W, UPSAMPLE_C, UPSAMPLE_FH, UPSAMPLE_FW, UPSAMPLE_PARAMETERS };
enum { MASK_COUNT, MASK_STREAM, MASK_P, MASK_PARAMETERS };
enum { CONVERT_ROWS, CONVERT_COUNT, CONVERT_FROM, CONVERT_TO, CONVERT_PARAMETERS };
enum { BITS_COUNT, BITS_PARAMETERS };

enum measure { MEASURE_SQUARE, MEASURE_HUBER, MEASURE_BINARY_CROSS_ENTROPY, MEASURES };
enum number { NUMBER_FLOAT32, NUMBER_BFLOAT16, NUMBER_FLOAT16, NUMBER_INT8, NUMBERS };

/* A map's parameters: these six, then (mode, stride) per input, two words per instruction, and the
 * register each output is stored from. */
enum { MAP_TOTAL, MAP_C, MAP_ROWS, MAP_INPUTS, MAP_OUTPUTS, MAP_STEPS, MAP_FIXED };

enum mode { MODE_LINEAR, MODE_SCALAR, MODE_CHANNEL, MODE_EXAMPLE_CHANNEL, MODE_EXAMPLE, MODE_PERIODIC, MODES };

enum fn {
    FN_ADD,
    FN_SUB,
    FN_MUL,
    FN_DIV,
    FN_MADD,
    FN_MULI,
    FN_ADDI,
    FN_RELU,
    FN_GATE,
    FN_NEG,
    FN_ABS,
    FN_MAX,
    FN_MIN,
    FN_EXP,
    FN_LOG,
    FN_TANH,
    FN_SIGMOID,
    FN_SQRT,
    FN_RECIPROCAL,
    FN_SET,
    FN_ERF,
    FN_SELECT,
    FNS,
};

/* One instruction of a map: the first word packs fn, to, a, b; the second is register c or a float's bits. */
struct instruction {
    uint32_t fn, to, a, b;
    int32_t second;
};

static inline struct instruction map_instruction(const int32_t *words)
{
    const uint32_t word = (uint32_t)words[0];
    return (struct instruction){word & 255, word >> 8 & 255, word >> 16 & 255, word >> 24, words[1]};
}

#endif
