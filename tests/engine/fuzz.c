/* Opens and plays tapes from standard input, each on heap blocks of exactly its regions' sizes.
 *
 * Built with sanitizers: a kernel that leaves its regions, or a verifier that lets it, stops the
 * program. Input: for each tape its length as a 32-bit number, then its bytes. Output: how many tapes
 * were played and how many refused. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE__)
#include <xmmintrin.h>
static unsigned mode(void)
{
    return _mm_getcsr() & ~0x3fu; /* without the sticky flags */
}
#else
static unsigned mode(void)
{
    return 0;
}
#endif

#include "tacit.h"

static const struct tacit_limits LIMITS = {4000000, 4000000};
enum { MOST_MEMORY = 1 << 22 };

static void stop(const char *why)
{
    fprintf(stderr, "%s\n", why);
    abort();
}

/* Ordinary numbers, with some of every awkward kind among them. */
static void fill(uint8_t *block, size_t size, uint32_t *seed)
{
    static const uint32_t AWKWARD[] = {0x7fc00000, 0x7f800000, 0xff800000, 0, 0x80000000, 1, 0xffffffff, 0x7f7fffff};
    for (size_t at = 0; at + 4 <= size; at += 4) {
        *seed = *seed * 1664525u + 1013904223u;
        uint32_t word = (0x3f000000u + (*seed >> 9)) | (*seed & 0x80000000u);
        if ((*seed >> 8) % 61 == 0)
            word = AWKWARD[*seed >> 29];
        memcpy(block + at, &word, 4);
    }
}

static void play(const struct tacit_tape *tape, uint32_t *seed)
{
    void *memory[TACIT_REGIONS] = {0};
    size_t size[TACIT_REGIONS] = {0}, total = 0;
    for (uint32_t i = 0; i < TACIT_REGIONS; i++)
        total += tacit_region_size(tape, i) < MOST_MEMORY ? (size_t)tacit_region_size(tape, i) : MOST_MEMORY;
    if (total >= MOST_MEMORY)
        return;
    for (uint32_t i = 0; i < TACIT_REGIONS; i++) {
        size[i] = (size_t)tacit_region_size(tape, i);
        if (size[i] == 0)
            continue;
        if (posix_memalign(&memory[i], 64, size[i]) != 0)
            stop("there is not enough memory");
        fill(memory[i], size[i], seed);
    }
    const unsigned before = mode();
    for (int first = 0; first < 2; first++)
        if (tacit_play(tape, memory, size, first) != TACIT_PLAYED)
            stop("a verified tape was not played");
    if (mode() != before)
        stop("the floating-point mode was not restored");
    for (int i = 0; i < TACIT_REGIONS; i++)
        free(memory[i]);
}

int main(void)
{
    uint32_t length, seed = 1;
    long played = 0, refused = 0;
    while (fread(&length, sizeof length, 1, stdin) == 1) {
        uint8_t *bytes = malloc(length ? length : 1);
        if (!bytes || fread(bytes, 1, length, stdin) != length)
            stop("the input is cut");
        struct tacit_tape *tape;
        struct tacit_refusal refusal;
        const int rule = tacit_open(bytes, length, &LIMITS, &tape, &refusal);
        free(bytes); /* an opened tape keeps nothing of what it was opened from */
        if (rule == 0) {
            play(tape, &seed);
            played++;
        } else {
            if (rule != refusal.rule || !refusal.sentence || !tacit_rule_name(rule))
                stop("a refusal has no reason");
            refused++;
        }
        tacit_close(tape);
    }
    printf("%ld %ld\n", played, refused);
    return 0;
}
