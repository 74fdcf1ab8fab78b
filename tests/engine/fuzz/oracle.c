#include "oracle.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "need.h"

#if defined(__SSE__)
#include <xmmintrin.h>
static unsigned mode(void)
{
    return _mm_getcsr() & ~0x3fu; /* without the sticky flags */
}

static void set_mode(unsigned word)
{
    _mm_setcsr(word);
}

enum { PLAYING_MODE = 0x9fc0 }; /* as play.c has it */
#else
static unsigned mode(void)
{
    return 0;
}

static void set_mode(unsigned word)
{
    (void)word;
}

enum { PLAYING_MODE = 0 };
#endif

const struct tacit_limits LIMITS = {4000000, 4000000};

void stop(const char *why)
{
    fprintf(stderr, "oracle: %s\n", why);
    abort();
}

void say(FILE *to, const struct tally *tally)
{
    fprintf(to, "%llu %llu %.2f", (unsigned long long)tally->records, (unsigned long long)tally->unplayed,
            tally->dearest);
    for (int rule = 0; rule <= tacit_rule_count(); rule++)
        fprintf(to, " %llu", (unsigned long long)tally->refused[rule]);
    fprintf(to, "\n");
    fflush(to);
}

/* ---- Steps --------------------------------------------------------------------------------------- */

uint64_t steps_taken;

#ifdef COUNT_STEPS
#ifdef __clang__
#define UNCOUNTED __attribute__((no_sanitize("coverage")))
#else
#define UNCOUNTED __attribute__((no_sanitize_coverage))
#endif

/* Called at every block of code that is compiled with -fsanitize-coverage=trace-pc. */
UNCOUNTED void __sanitizer_cov_trace_pc(void);
UNCOUNTED void __sanitizer_cov_trace_pc(void)
{
    steps_taken++;
}
#endif

/* A record of nothing takes some, too: a map sets up its registers, a convolution its taps. */
enum { STEPS_OF_A_RECORD = 40000, STEPS_OF_A_UNIT = 64 };

static void count_steps(const struct record *r, uint64_t units, uint64_t steps, struct tally *tally)
{
    if (steps <= STEPS_OF_A_RECORD)
        return;
    const double dear = (double)(steps - STEPS_OF_A_RECORD) / (double)units;
    if (dear > tally->dearest)
        tally->dearest = dear;
    if (dear > STEPS_OF_A_UNIT) {
        fprintf(stderr, "operation %u took %.0f steps for each of its %llu operations and bytes\n", r->op, dear,
                (unsigned long long)units);
        stop("a record costs far more than it says");
    }
}

/* ---- Memory -------------------------------------------------------------------------------------- */

struct block {
    void *memory[TACIT_REGIONS];
    size_t size[TACIT_REGIONS];
};

static void *room(size_t size)
{
    void *made;
    if (posix_memalign(&made, ALIGNMENT, size) != 0)
        stop("there is not enough memory");
    return made;
}

static bool too_large(const struct tacit_tape *tape)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < TACIT_REGIONS; i++)
        total = plus(total, tacit_region_size(tape, i));
    return total >= MOST_MEMORY;
}

/* Ordinary numbers, with some of every awkward kind among them; as labels or indices most are out of range. */
static void fill(uint8_t *block, size_t size, uint32_t *seed)
{
    static const uint32_t AWKWARD[] = {0x7fc00000, 0x7f800000, 0xff800000, 0,          0x80000000, 1,
                                       0xffffffff, 0x7f7fffff, 2,          0x80000001, 3,          0x7fffffff};
    for (size_t at = 0; at + 4 <= size; at += 4) {
        *seed = *seed * 1664525u + 1013904223u;
        uint32_t word = (0x3f000000u + (*seed >> 9)) | (*seed & 0x80000000u);
        if ((*seed >> 8) % 61 == 0)
            word = AWKWARD[(*seed >> 24) % 12];
        memcpy(block + at, &word, 4);
    }
}

/* Labels and rows that are mostly in range, in half of the tapes; sizes are the tape's, so blocks are exact. */
static struct block filled(const struct tacit_tape *tape, uint32_t seed)
{
    struct block block = {{NULL}, {0}};
    const bool small = seed & 1;
    for (uint32_t i = 0; i < TACIT_REGIONS; i++) {
        block.size[i] = (size_t)tacit_region_size(tape, i);
        if (block.size[i] == 0)
            continue;
        block.memory[i] = room(block.size[i]);
        fill(block.memory[i], block.size[i], &seed);
        for (size_t at = 0; small && (i == TACIT_Y || i % 3 == 2) && at + 4 <= block.size[i]; at += 4) {
            const int32_t label = (int32_t)((seed >> 8) + at) % 9 - 1;
            memcpy((uint8_t *)block.memory[i] + at, &label, 4);
        }
    }
    return block;
}

static struct block copied(const struct block *from)
{
    struct block block = *from;
    for (int i = 0; i < TACIT_REGIONS; i++)
        if (from->memory[i]) {
            block.memory[i] = room(from->size[i]);
            memcpy(block.memory[i], from->memory[i], from->size[i]);
        }
    return block;
}

static void release(struct block *block)
{
    for (int i = 0; i < TACIT_REGIONS; i++)
        free(block->memory[i]);
}

/* ---- One record ---------------------------------------------------------------------------------- */

static uint8_t *place(const struct block *block, const struct operand *o)
{
    return (uint8_t *)block->memory[o->region] + o->offset;
}

static bool same_place(const struct operand *a, const struct operand *b)
{
    return a->region == b->region && a->offset == b->offset;
}

/* Every operand alone, but for an input that an output stands on. */
static void play_alone(kernel *const *kernels, const struct record *r, const struct block *block, bool first,
                       struct tally *tally)
{
    struct need need = {{0}, 0, 0};
    if (tacit_check_parameters(r, &need) != RULE_NONE)
        stop("a record's parameters were accepted and are not");
    const uint32_t outputs = tacit_signature(r).outputs;
    uint64_t units = need.operations;
    void *alone[OPERANDS] = {NULL};
    bool shared[OPERANDS] = {false};
    for (uint32_t i = 0; i < r->operands; i++) {
        const struct operand *o = &r->operand[i];
        if (o->region == ABSENT)
            continue;
        if (need.bytes[i] > o->extent)
            stop("an operand is smaller than what its record needs");
        units += need.bytes[i];
        for (uint32_t j = 0; j < outputs && j < i; j++)
            if (r->operand[j].region != ABSENT && same_place(o, &r->operand[j]) && need.bytes[j] == need.bytes[i] &&
                need.bytes[i] > 0) {
                alone[i] = alone[j];
                shared[i] = true;
            }
        if (shared[i])
            continue;
        alone[i] = room((size_t)need.bytes[i]);
        if (need.bytes[i] > 0)
            memcpy(alone[i], place(block, o), (size_t)need.bytes[i]);
    }
    const bool add = r->accumulate == ACCUMULATE_YES || (r->accumulate == ACCUMULATE_UNLESS_FIRST && !first);
    const uint64_t before = steps_taken;
    kernels[r->op](r->parameter, alone, add);
    count_steps(r, units, steps_taken - before, tally);
    for (uint32_t i = 0; i < r->operands; i++) {
        if (!alone[i] || shared[i])
            continue;
        uint8_t *at = need.bytes[i] > 0 ? place(block, &r->operand[i]) : NULL;
        if (at && i < outputs)
            memcpy(at, alone[i], (size_t)need.bytes[i]);
        else if (at && memcmp(at, alone[i], (size_t)need.bytes[i]) != 0)
            stop("an input was written");
        free(alone[i]);
    }
    tally->records++;
}

static void play_records(kernel *const *kernels, const struct header *header, const struct record *records,
                         const struct block *block, bool first, struct tally *tally)
{
    const unsigned before = mode();
    set_mode(PLAYING_MODE);
    for (uint32_t i = 0; i < header->records; i++)
        play_alone(kernels, &records[i], block, first, tally);
    set_mode(before);
}

/* ---- A tape -------------------------------------------------------------------------------------- */

/* The kernels that tacit_play uses here. */
static kernel *const *kernels_here(void)
{
#ifdef TACIT_WITH_AVX512
    if (strcmp(tacit_instructions(), "avx512") == 0)
        return tacit_kernels_avx512;
#endif
#ifdef TACIT_WITH_AVX2
    if (strcmp(tacit_instructions(), "baseline") != 0)
        return tacit_kernels_avx2;
#endif
    return tacit_kernels_baseline;
}

static void play(const struct tacit_tape *tape, const uint8_t *bytes, size_t length, uint32_t seed,
                 struct tally *tally)
{
    if (too_large(tape)) {
        tally->unplayed++;
        return;
    }
    struct header header;
    memcpy(&header, bytes, sizeof header);
    struct record *records = room(length - HEADER_SIZE + 1);
    memcpy(records, bytes + HEADER_SIZE, length - HEADER_SIZE);
    const bool first = seed >> 1 & 1;
    struct block whole = filled(tape, seed), apart = copied(&whole);
    if (kernels_here() != tacit_kernels_baseline && seed % 4 == 0) {
        struct block once = copied(&whole);
        play_records(tacit_kernels_baseline, &header, records, &once, first, tally);
        release(&once);
    }
    const unsigned before = mode();
    if (tacit_play(tape, whole.memory, whole.size, first) != TACIT_PLAYED)
        stop("a verified tape was not played");
    if (mode() != before)
        stop("the floating-point mode was not restored");
    play_records(kernels_here(), &header, records, &apart, first, tally);
    for (int i = 0; i < TACIT_REGIONS; i++)
        if (whole.memory[i] && memcmp(whole.memory[i], apart.memory[i], whole.size[i]) != 0)
            stop("the tape leaves other bytes when its operands stand alone");
    release(&whole);
    release(&apart);
    free(records);
}

static uint32_t hash(const uint8_t *bytes, size_t length)
{
    uint32_t sum = 2166136261u;
    for (size_t i = 0; i < length; i++)
        sum = (sum ^ bytes[i]) * 16777619u;
    return sum ^ sum >> 15;
}

int try_tape(const uint8_t *bytes, size_t length, struct tally *tally)
{
    uint8_t *exactly = malloc(length ? length : 1);
    if (!exactly)
        stop("there is not enough memory");
    memcpy(exactly, bytes, length);
    struct tacit_tape *tape;
    struct tacit_refusal refusal;
    const int rule = tacit_open(exactly, length, &LIMITS, &tape, &refusal);
    free(exactly); /* an opened tape keeps nothing of what it was opened from */
    if (rule < 0 || rule > tacit_rule_count())
        stop("a tape was refused by no rule");
    tally->refused[rule]++;
    if (rule == 0) {
        if (tacit_operations(tape) > LIMITS.most_operations || tacit_moved(tape) > LIMITS.most_bytes)
            stop("a tape over the limits was accepted");
        play(tape, bytes, length, hash(bytes, length), tally);
    } else if (tape || rule != refusal.rule || !refusal.sentence || !tacit_rule_name(rule)) {
        stop("a refusal has no reason");
    }
    tacit_close(tape);
    return rule;
}
