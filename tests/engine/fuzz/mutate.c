/* A libFuzzer target: tapes changed by what they mean, kept where they reach new code, tried by the oracle.
 *
 * Bytes changed at random are nearly all refused by the first rules. So most changes are made to a record's
 * parameters, operands, program or operation, or to the order of records, and then what hangs together is put right
 * again: sides that follow from others, operands as large as their record needs, regions as large as their operands,
 * totals. Each of these repairs is left out now and then, so that every rule has something to refuse. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "need.h"
#include "oracle.h"

size_t LLVMFuzzerMutate(uint8_t *bytes, size_t length, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t length, size_t most, unsigned seed);
int LLVMFuzzerInitialize(int *count, char ***argument);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static struct tally tally;

/* At the end, in the form of the program that takes tapes through a pipe. */
static void say_at_end(void)
{
    say(stdout, &tally);
}

int LLVMFuzzerInitialize(int *count, char ***argument)
{
    (void)count, (void)argument;
    atexit(say_at_end);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    try_tape(bytes, length, &tally);
    return 0;
}

/* ---- Chance -------------------------------------------------------------------------------------- */

static uint64_t chance;

static uint32_t draw(void)
{
    chance = chance * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(chance >> 33);
}

static uint32_t below(uint32_t bound)
{
    return draw() % bound;
}

static bool one_in(uint32_t count)
{
    return below(count) == 0;
}

static int32_t awkward(void)
{
    static const int32_t NUMBERS[] = {0,    1,    2,     3,         15,            16, 17, 255,       256,       1023,
                                      1024, 1025, 65536, INT32_MAX, INT32_MAX - 1, -1, -2, INT32_MIN, 0x3f800000, 47};
    return NUMBERS[below(sizeof NUMBERS / sizeof *NUMBERS)];
}

/* Mostly near what it was, or small: a tape that is too large is not tried. */
static int32_t changed(int32_t value)
{
    switch (below(6)) {
    case 0:
        return awkward();
    case 1:
    case 2:
        return (int32_t)((uint32_t)value + 1 - 2 * below(2));
    case 3:
        return value / 2;
    case 4:
        return (int32_t)((uint32_t)value * 2);
    default:
        return (int32_t)below(20);
    }
}

/* ---- Changes ------------------------------------------------------------------------------------- */

static uint64_t changed_place(uint64_t place)
{
    static const uint64_t STEPS[] = {1, 4, 8, 60, 64, UINT64_C(1) << 31, UINT64_C(1) << 47, UINT64_C(1) << 63};
    const uint64_t step = STEPS[below(8)];
    return one_in(2) ? place + step : place - step;
}

static void change_operand(struct operand *o)
{
    switch (below(5)) {
    case 0:
        o->region = one_in(8) ? (uint32_t)awkward() : below(REGIONS);
        return;
    case 1:
        o->offset = changed_place(o->offset);
        return;
    case 2:
        o->extent = changed_place(o->extent);
        return;
    case 3:
        *o = (struct operand){ABSENT, one_in(20), 0, 0};
        return;
    default:
        *o = (struct operand){below(REGIONS_USED), 0, 64 * (uint64_t)below(16), 4 * (uint64_t)below(100)};
    }
}

/* One word of an instruction, or a whole one that is mostly good. */
static void change_program(int32_t *p)
{
    if (!one_in(4) && p[MAP_INPUTS] >= 0 && p[MAP_INPUTS] < OPERANDS && p[MAP_STEPS] > 0 &&
        p[MAP_STEPS] <= MAP_INSTRUCTIONS) {
        int32_t *step = p + MAP_FIXED + 2 * p[MAP_INPUTS] + 2 * below((uint32_t)p[MAP_STEPS]);
        const uint32_t to = (uint32_t)p[MAP_INPUTS] + below(MAP_REGISTERS - (uint32_t)p[MAP_INPUTS]);
        const uint32_t fn = below(FNS + 1), known = (uint32_t)p[MAP_INPUTS] + 1;
        step[0] = (int32_t)(fn | to << 8 | below(known) << 16 | (one_in(2) ? 0 : below(known) << 24));
        step[1] = one_in(2) ? 0 : (int32_t)below(known);
        return;
    }
    const uint32_t at = MAP_FIXED + below(PARAMETERS - MAP_FIXED);
    p[at] = one_in(3) ? awkward() : p[at] ^ (int32_t)(1u << below(32));
}

/* To one that has the same parameters, or to any. */
static void change_operation(struct record *r)
{
    static const uint16_t FIRST[] = {OP_CONV, OP_MAX_POOL, OP_AVERAGE_POOL, OP_NORM, OP_SOFTMAX, OP_GATHER, OP_LOSS,
                                     OP_UPSAMPLE, OP_PACK_SIGN, OP_CROSS_ENTROPY};
    const uint16_t family = FIRST[below(sizeof FIRST / sizeof *FIRST)];
    if (one_in(16))
        r->op = (uint16_t)below(OPS + 1);
    else if (r->op == family || r->op == family + 1)
        r->op = (uint16_t)(2 * family + 1 - r->op);
}

/* A side of a kernel that reaches far: little to multiply, and much to do beside. */
static void reach_far(int32_t *p)
{
    const int side = (int)below(2);
    p[P_KH + side] = 1 + (int32_t)below(3);
    p[CONV_DH + side] = p[P_KH + side] > 1 ? 1023 / (p[P_KH + side] - 1) : 1;
    p[P_PH + side] = (p[P_KH + side] - 1) * p[CONV_DH + side] / (1 + (int32_t)below(2));
    p[P_SH + side] = one_in(2) ? 1024 : 1;
    p[P_N] = one_in(2) ? 1 : 1 + (int32_t)below(1000);
}

static void change_record(struct record *r)
{
    switch (below(9)) {
    case 8:
        if (r->op <= OP_CONV_WEIGHT_GRADIENT && one_in(4))
            reach_far(r->parameter);
        return;
    case 0:
        r->accumulate = (uint16_t)below(one_in(8) ? 5 : 3);
        return;
    case 1:
        change_operand(&r->operand[below(OPERANDS)]);
        return;
    case 2:
        if (one_in(8))
            r->operands = below(OPERANDS + 2);
        return;
    case 3:
        change_operation(r);
        return;
    default:
        for (uint32_t times = 1 + below(3); times > 0; times--)
            if (r->op == OP_MAP && one_in(2)) {
                change_program(r->parameter);
            } else {
                const uint32_t at = one_in(12) ? below(PARAMETERS) : below(20);
                r->parameter[at] = changed(r->parameter[at]);
            }
    }
}

/* ---- What hangs together ------------------------------------------------------------------------- */

static int32_t windows(const int32_t *p, int place, int64_t dilation)
{
    const int64_t room = (int64_t)p[P_H + place] + 2 * (int64_t)p[P_PH + place] - ((int64_t)p[P_KH + place] - 1) * dilation - 1;
    return p[P_SH + place] > 0 && room >= 0 ? (int32_t)(room / p[P_SH + place] + 1) : 1;
}

static void follow(struct record *r)
{
    int32_t *p = r->parameter;
    switch (r->op) {
    case OP_CONV:
    case OP_CONV_INPUT_GRADIENT:
    case OP_CONV_WEIGHT_GRADIENT:
        if (p[CONV_G] > 1 && one_in(2))
            p[P_C] = p[CONV_O] = p[CONV_G];
        p[CONV_OH] = windows(p, 0, p[CONV_DH]);
        p[CONV_OW] = windows(p, 1, p[CONV_DW]);
        return;
    case OP_MAX_POOL:
    case OP_MAX_POOL_GRADIENT:
    case OP_AVERAGE_POOL:
    case OP_AVERAGE_POOL_GRADIENT:
        p[POOL_OH] = windows(p, 0, 1);
        p[POOL_OW] = windows(p, 1, 1);
        return;
    case OP_MAP:
        if (p[MAP_C] > 0 && p[MAP_ROWS] > 0 && p[MAP_C] < 5000 && p[MAP_ROWS] < 100)
            p[MAP_TOTAL] = p[MAP_C] * p[MAP_ROWS] * (1 + (int32_t)below(4));
        return;
    case OP_NORM:
    case OP_NORM_GRADIENT:
        if (p[NORM_G] > 0 && p[NORM_G] < 1000)
            p[NORM_C] = p[NORM_G] * (1 + (int32_t)below(300));
        return;
    default:
        return;
    }
}

/* What a record needs; false where its parameters may not be. */
static bool need_of(const struct record *r, struct need *need)
{
    *need = (struct need){{0}, 0, 0};
    return r->op >= 1 && r->op < OPS && (r->op != OP_MAP || tacit_map_counts_in_range(r->parameter)) &&
           tacit_check_parameters(r, need) == RULE_NONE;
}

/* Operands as large as the record needs, one after the other in their regions, some on others. */
static void fit_operands(struct record *r, uint32_t kind)
{
    static const uint32_t WRITTEN[KINDS] = {TACIT_KEPT, TACIT_GRADIENT, TACIT_STATE, TACIT_OUTPUT, TACIT_OUTPUT};
    struct need need;
    if (!need_of(r, &need))
        return;
    uint64_t end[REGIONS] = {0};
    const struct signature s = tacit_signature(r);
    r->operands = s.operands;
    r->accumulate = s.accumulates ? r->accumulate : ACCUMULATE_NO;
    memset(r->parameter + s.parameters, 0, (PARAMETERS - s.parameters) * sizeof *r->parameter);
    const uint32_t outputs = s.outputs;
    for (uint32_t i = 0; i < OPERANDS; i++) {
        struct operand *o = &r->operand[i];
        const bool optional = s.trait[i] & MAY && !(s.trait[i] & SCRATCH);
        if (i >= s.operands || need.bytes[i] == 0 || (optional && one_in(2)) || one_in(64)) {
            *o = (struct operand){ABSENT, 0, 0, 0};
            continue;
        }
        if (i >= outputs && one_in(6)) {
            *o = r->operand[below(outputs)];
            continue;
        }
        o->reserved = 0;
        const uint32_t written = one_in(2) ? TACIT_ARENA : WRITTEN[kind % KINDS];
        o->region = i < outputs ? written : o->region < REGIONS_USED ? o->region : below(REGIONS_USED);
        o->offset = up(end[o->region], one_in(2) ? ALIGNMENT : 4);
        o->extent = need.bytes[i] + (one_in(8) ? 4 * below(20) : 0);
        end[o->region] = plus(o->offset, o->extent);
    }
}

static void fit_regions(struct header *header, const struct record *records)
{
    memset(header->region, 0, sizeof header->region);
    for (uint32_t i = 0; i < header->records; i++)
        for (uint32_t k = 0; k < OPERANDS; k++) {
            const struct operand *o = &records[i].operand[k];
            const uint64_t end = plus(o->offset, o->extent);
            if (o->region < REGIONS_USED && end > header->region[o->region])
                header->region[o->region] = end;
        }
}

static void add_up(struct header *header, const struct record *records)
{
    header->operations = header->moved = 0;
    for (uint32_t i = 0; i < header->records; i++) {
        struct need need;
        if (!need_of(&records[i], &need))
            return;
        header->operations += need.operations;
        header->moved += records[i].accumulate ? need.bytes[0] : 0;
        for (uint32_t k = 0; k < OPERANDS; k++)
            header->moved += records[i].operand[k].region != ABSENT ? need.bytes[k] : 0;
    }
}

/* ---- A tape -------------------------------------------------------------------------------------- */

static void change_order(struct header *header, struct record *records, uint32_t most)
{
    const uint32_t count = header->records, from = below(count), to = below(count);
    const struct record moved = records[from];
    switch (below(3)) {
    case 0:
        if (count < most) {
            records[count] = records[from];
            header->records++;
        }
        return;
    case 1:
        if (count > 1) {
            memmove(records + from, records + from + 1, (count - from - 1) * sizeof *records);
            header->records--;
        }
        return;
    default:
        records[from] = records[to];
        records[to] = moved;
    }
}

static void change_header(struct header *header)
{
    switch (below(4)) {
    case 0:
        header->kind = below(one_in(8) ? KINDS + 2 : KINDS);
        return;
    case 1:
        header->region[below(REGIONS)] = changed_place(header->region[below(REGIONS)]);
        return;
    case 2:
        ((uint8_t *)header)[below(HEADER_SIZE)] ^= (uint8_t)(1u << below(8));
        return;
    default:
        header->operations = changed_place(header->operations);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t length, size_t most, unsigned seed)
{
    chance = seed;
    if (length < HEADER_SIZE + RECORD_SIZE || most < length || one_in(40))
        return LLVMFuzzerMutate(bytes, length, most);
    struct header header;
    memcpy(&header, bytes, sizeof header);
    const uint32_t room = (uint32_t)((most - HEADER_SIZE) / RECORD_SIZE);
    struct record *records = malloc(room * sizeof *records);
    if (!records)
        return 0;
    header.records = (uint32_t)((length - HEADER_SIZE) / RECORD_SIZE);
    memcpy(records, bytes + HEADER_SIZE, header.records * sizeof *records);
    for (uint32_t times = 1 + below(3); times > 0; times--) {
        struct record *r = &records[below(header.records)];
        if (one_in(8)) {
            change_order(&header, records, room);
        } else {
            change_record(r);
            if (!one_in(8))
                follow(r);
            if (!one_in(4))
                fit_operands(r, header.kind);
        }
    }
    if (!one_in(8))
        fit_regions(&header, records);
    if (!one_in(16))
        add_up(&header, records);
    const size_t size = header.records * sizeof *records; /* whatever the header says from here on */
    if (one_in(8))
        change_header(&header);
    memcpy(bytes, &header, sizeof header);
    memcpy(bytes + HEADER_SIZE, records, size);
    length = HEADER_SIZE + size;
    free(records);
    return length;
}
