/* The floating-point environment of the host: each tape is played under every one that a host may have set. It must be
 * the same word afterwards, flags and all, and must not have changed what was computed. */
#include <fenv.h>

#include "given.h"

/* The words that say how floating-point numbers are computed, and what has happened to them so far. */
struct words {
    uint64_t word[2];
};

#if defined(__x86_64__)
#include <xmmintrin.h>

enum { FLUSH = 0x8040, TRAPS = 0x1f80, HAPPENED = 0x21 }; /* MXCSR; something inexact and something invalid */

static struct words now(void)
{
    uint16_t x87;
    __asm__ volatile("fnstcw %0" : "=m"(x87));
    return (struct words){{_mm_getcsr(), x87}};
}

static void set(int flush, int trap)
{
    _mm_setcsr((_mm_getcsr() & ~(unsigned)(FLUSH | TRAPS)) | (flush ? FLUSH : 0) | (trap ? 0 : TRAPS) | HAPPENED);
}
#elif defined(__aarch64__)
enum { FLUSH = 1 << 24, HAPPENED = 0x11 };

static struct words now(void)
{
    struct words words;
    __asm__ volatile("mrs %0, fpcr" : "=r"(words.word[0]));
    __asm__ volatile("mrs %0, fpsr" : "=r"(words.word[1]));
    return words;
}

/* Traps are left alone: most processors of this kind have none. */
static void set(int flush, int trap)
{
    (void)trap;
    uint64_t control = now().word[0], happened = HAPPENED;
    control = flush ? control | FLUSH : control & ~(uint64_t)FLUSH;
    __asm__ volatile("msr fpcr, %0" : : "r"(control));
    __asm__ volatile("msr fpsr, %0" : : "r"(happened));
}
#endif

int main(void)
{
    static const int ROUNDING[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    fenv_t ordinary;
    fegetenv(&ordinary);
    int tapes = 0;
    for (struct given given = next_tape(); given.bytes; given = next_tape(), tapes++) {
        struct tacit_tape *tape = opened(given);
        struct memory memory = memory_for(tape);
        const uint64_t right = play(tape, &memory);
        for (int i = 0; i < 16; i++) {
            fesetround(ROUNDING[i & 3]);
            set(i & 4, i & 8);
            const struct words before = now();
            const uint64_t sum = play(tape, &memory);
            const struct words after = now();
            fesetenv(&ordinary);
            if (memcmp(&before, &after, sizeof before) != 0)
                stop("the floating-point environment was changed");
            if (sum != right)
                stop("the floating-point environment of the host changed what was computed");
        }
        give_back(&memory);
        tacit_close(tape);
        free(given.bytes);
    }
    printf("%d\n", tapes);
    return 0;
}
