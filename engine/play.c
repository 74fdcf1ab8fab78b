/* Opening a tape, and playing it. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "play.h"
#include "tacit.h"
#include "verify.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

/* A private copy, so that nothing changes after it was verified. */
struct tacit_tape {
    kernel *const *kernels;
    struct header header;
    struct record records[];
};

/* ---- Which build of the kernels ------------------------------------------------------------------ */

#ifdef TACIT_WITH_AVX2
#include <cpuid.h>

enum { WIDE_REGISTERS = 0x6, WIDEST_REGISTERS = 0xe6 };

/* Whether leaf 7 of the processor's word about itself has all of `bits`, and the operating system saves these
 * registers when it switches threads. Asked of the processor itself: not every compiler's library can be asked
 * from a shared object. */
static bool has(unsigned bits, unsigned registers)
{
    enum { FMA = 1 << 12, OSXSAVE = 1 << 27 };
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & FMA) || !(c & OSXSAVE))
        return false;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & registers) != registers)
        return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bits) == bits;
}
#endif

struct build {
    const char *name;
    kernel *const *kernels;
};

static struct build build_here(void)
{
#ifdef TACIT_WITH_AVX512
    const unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    if (has(f | dq | bw | vl, WIDEST_REGISTERS))
        return (struct build){"avx512", tacit_kernels_avx512};
#endif
#ifdef TACIT_WITH_AVX2
    if (has(1 << 5, WIDE_REGISTERS))
        return (struct build){"avx2", tacit_kernels_avx2};
#endif
    return (struct build){"baseline", tacit_kernels_baseline};
}

const char *tacit_instructions(void)
{
    return build_here().name;
}

uint32_t tacit_version(void)
{
    return FORMAT_VERSION;
}

/* ---- Opening -------------------------------------------------------------------------------------- */

static int refuse(struct verdict verdict, struct tacit_refusal *refusal)
{
    if (refusal)
        *refusal = (struct tacit_refusal){(int32_t)verdict.rule, verdict.record, tacit_rule_sentence((int)verdict.rule)};
    return (int)verdict.rule;
}

int tacit_open(const void *bytes, size_t length, const struct tacit_limits *limits, struct tacit_tape **tape,
               struct tacit_refusal *refusal)
{
    *tape = NULL;
    if (length < HEADER_SIZE)
        return refuse((struct verdict){RULE_LENGTH, -1}, refusal);
    /* The header is copied first: its record count bounds what is copied next. */
    struct header header;
    memcpy(&header, bytes, sizeof header);
    struct verdict verdict = tacit_verify_header(&header, length);
    if (verdict.rule != RULE_NONE)
        return refuse(verdict, refusal);
    struct tacit_tape *copy = malloc(sizeof *copy + length - HEADER_SIZE);
    if (!copy)
        return refuse((struct verdict){RULE_MEMORY, -1}, refusal);
    copy->kernels = build_here().kernels;
    copy->header = header;
    memcpy(copy->records, (const uint8_t *)bytes + HEADER_SIZE, length - HEADER_SIZE);
    verdict = tacit_verify_records(&copy->header, copy->records, limits);
    if (verdict.rule != RULE_NONE) {
        free(copy);
        return refuse(verdict, refusal);
    }
    *tape = copy;
    return 0;
}

void tacit_close(struct tacit_tape *tape)
{
    free(tape);
}

uint32_t tacit_kind(const struct tacit_tape *tape)
{
    return tape->header.kind;
}

uint32_t tacit_record_count(const struct tacit_tape *tape)
{
    return tape->header.records;
}

uint64_t tacit_operations(const struct tacit_tape *tape)
{
    return tape->header.operations;
}

uint64_t tacit_moved(const struct tacit_tape *tape)
{
    return tape->header.moved;
}

uint64_t tacit_region_size(const struct tacit_tape *tape, uint32_t region)
{
    return region < REGIONS ? tape->header.region[region] : 0;
}

/* ---- The floating-point mode ---------------------------------------------------------------------- */

/* Denormals cost a hundred times a normal number and carry nothing: flushed to zero while a tape
 * plays. Rounding to nearest and no traps, whatever the host program has set. */
#if defined(__SSE__)
typedef unsigned mode_word;

static mode_word enter_mode(void)
{
    const mode_word before = _mm_getcsr();
    _mm_setcsr(0x9fc0); /* flush to zero, denormals are zero, all exceptions masked, round to nearest */
    return before;
}

static void leave_mode(mode_word before)
{
    _mm_setcsr(before);
}
#elif defined(__aarch64__)
typedef struct {
    uint64_t control, status;
} mode_word;

static mode_word enter_mode(void)
{
    mode_word before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before.control));
    __asm__ volatile("mrs %0, fpsr" : "=r"(before.status));
    __asm__ volatile("msr fpcr, %0" : : "r"(UINT64_C(1) << 24) : "memory"); /* FZ, everything else default */
    return before;
}

static void leave_mode(mode_word before)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(before.control) : "memory");
    __asm__ volatile("msr fpsr, %0" : : "r"(before.status) : "memory");
}
#else
typedef int mode_word;

static mode_word enter_mode(void)
{
    return 0;
}

static void leave_mode(mode_word before)
{
    (void)before;
}
#endif

/* ---- Playing -------------------------------------------------------------------------------------- */

static bool overlapping(uintptr_t a, uint64_t a_size, uintptr_t b, uint64_t b_size)
{
    return a < b ? a_size > b - a : b_size > a - b;
}

int tacit_check_memory(const uint64_t need[REGIONS], void *const memory[REGIONS], const size_t size[REGIONS])
{
    for (int i = 0; i < REGIONS_USED; i++) {
        if (need[i] == 0)
            continue;
        if (!memory[i] || size[i] < need[i])
            return TACIT_REGION_SMALL;
        if ((uintptr_t)memory[i] % ALIGNMENT != 0)
            return TACIT_REGION_ALIGNED;
        for (int j = 0; j < i; j++)
            if (need[j] != 0 && overlapping((uintptr_t)memory[i], need[i], (uintptr_t)memory[j], need[j]))
                return TACIT_REGION_SHARED;
    }
    return TACIT_PLAYED;
}

int tacit_play(const struct tacit_tape *tape, void *const memory[TACIT_REGIONS], const size_t size[TACIT_REGIONS],
               int first)
{
    const int result = tacit_check_memory(tape->header.region, memory, size);
    if (result != TACIT_PLAYED)
        return result;
    const mode_word before = enter_mode();
    for (uint32_t i = 0; i < tape->header.records; i++) {
        const struct record *r = &tape->records[i];
        void *operand[OPERANDS];
        for (int k = 0; k < OPERANDS; k++)
            operand[k] = r->operand[k].region == ABSENT
                             ? NULL
                             : (uint8_t *)memory[r->operand[k].region] + r->operand[k].offset;
        const bool add = r->accumulate == ACCUMULATE_YES || (r->accumulate == ACCUMULATE_UNLESS_FIRST && !first);
        tape->kernels[r->op](r->parameter, operand, add);
    }
    leave_mode(before);
    return TACIT_PLAYED;
}
