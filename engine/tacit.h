/* tacit's engine: plays tapes.
 *
 * A tape is a straight-line program of kernel calls (format.h; docs/reference/tape.md). `tacit_open`
 * copies and verifies one, and only what it returns can be played. Playing never allocates, never
 * fails once its first checks have passed, and touches nothing but the memory it is given.
 *
 * There is no global state. An opened tape is read-only: any number of threads may play it at once,
 * each with memory of its own. What went wrong is returned; nothing is printed, nothing aborts. How the
 * host rounds, flushes, traps and what its flags say changes nothing, and is after each call as it was.
 *
 * To embed it, compile every file of engine/ into the program with the flags of engine/build.py, or link
 * one of the libraries that `make engine-all` builds (docs/reference/builds.md: sizes, what is tested where,
 * which builds compute the same bytes). It needs nothing but libc, and in WebAssembly not even that.
 *
 *     struct tacit_refusal refusal;
 *     struct tacit_tape *tape;
 *     if (tacit_open(bytes, length, NULL, &tape, &refusal) != 0)
 *         fprintf(stderr, "record %d: %s\n", refusal.record, refusal.sentence);
 *     void *memory[TACIT_REGIONS] = {0};
 *     size_t size[TACIT_REGIONS] = {0};
 *     for (int region = 0; region < TACIT_REGIONS; region++)
 *         if ((size[region] = tacit_region_size(tape, region)) > 0)
 *             memory[region] = zeroed memory of that size, 64-byte aligned;
 *     tacit_play(tape, memory, size, 1);
 *     tacit_close(tape);
 */
#ifndef TACIT_H
#define TACIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define TACIT_API __declspec(dllexport)
#else
#define TACIT_API __attribute__((visibility("default")))
#endif

#define TACIT_REGIONS 16

/* The blocks of memory a tape works on. */
enum tacit_region {
    TACIT_ARENA = 0,    /* scratch of one micro-batch */
    TACIT_STATE = 1,    /* the subset's values, in panels */
    TACIT_GRADIENT = 2, /* same layout as state */
    TACIT_MOMENT = 3,   /* the optimizer's memory, same layout as state */
    TACIT_FROZEN = 4,   /* weights that never change */
    TACIT_KEPT = 5,     /* what the prefix leaves for one micro-batch */
    TACIT_X = 6,        /* the micro-batch's inputs */
    TACIT_Y = 7,        /* its labels, int32 */
    TACIT_WEIGHT = 8,   /* one float an example; 0 for padding */
    TACIT_DIVISOR = 9,  /* one float: the summed weight of the minibatch */
    TACIT_LOSS = 10,    /* one float */
    TACIT_OUTPUT = 11,  /* what evaluate and predict return */
    TACIT_RATE = 12,    /* one float: the learning rate of this step */
    TACIT_SEED = 13,    /* eight bytes: what a micro-batch's random masks are drawn from */
    TACIT_START = 14    /* the Snapshot a visit began from, same layout as state */
};

/* What a tape is for, and with that which regions it may write. */
enum tacit_kind { TACIT_PREFIX, TACIT_TRAIN, TACIT_APPLY, TACIT_EVALUATE, TACIT_PREDICT };

/* What the caller is willing to spend on one play. */
struct tacit_limits {
    uint64_t most_operations; /* multiply-adds and element operations */
    uint64_t most_bytes;      /* bytes read and written */
};

/* Why a tape was not accepted. */
struct tacit_refusal {
    int32_t rule;         /* the number of the rule in docs/reference/verifier.md */
    int32_t record;       /* the offending record, or -1 for the tape as a whole */
    const char *sentence; /* static, English */
};

struct tacit_tape;

/* Copies and verifies a tape. Returns 0 and sets `*tape`, or returns the rule that refused it and
 * fills in `*refusal` (which may be NULL). Without `limits` only the format's own limits hold. */
TACIT_API int tacit_open(const void *bytes, size_t length, const struct tacit_limits *limits,
                         struct tacit_tape **tape, struct tacit_refusal *refusal);

/* Frees what `tacit_open` returned; NULL is ignored. */
TACIT_API void tacit_close(struct tacit_tape *tape);

TACIT_API uint32_t tacit_kind(const struct tacit_tape *tape);
TACIT_API uint32_t tacit_record_count(const struct tacit_tape *tape);
TACIT_API uint64_t tacit_operations(const struct tacit_tape *tape);
TACIT_API uint64_t tacit_moved(const struct tacit_tape *tape);

/* The bytes of a region, 0 where the tape does not touch it. */
TACIT_API uint64_t tacit_region_size(const struct tacit_tape *tape, uint32_t region);

enum tacit_result {
    TACIT_PLAYED = 0,
    TACIT_REGION_SMALL = 1,   /* a region is absent or smaller than the tape says; nothing was played */
    TACIT_REGION_ALIGNED = 2, /* a region does not begin at a multiple of 64; nothing was played */
    TACIT_REGION_SHARED = 3   /* two regions overlap; nothing was played */
};

/* Plays the tape once. `memory` and `size` have one entry a region; entries of regions that the tape
 * does not touch are not looked at. `first` says that this is a minibatch's first micro-batch: what
 * accumulates begins anew. Denormals are flushed to zero while it runs, where the processor can;
 * the floating-point mode is restored before it returns. */
TACIT_API int tacit_play(const struct tacit_tape *tape, void *const memory[TACIT_REGIONS],
                         const size_t size[TACIT_REGIONS], int first);

/* The tape format this engine plays. */
TACIT_API uint32_t tacit_version(void);

/* Which of the library's builds of the kernels this processor gets: "avx512", "avx2" or "baseline". */
TACIT_API const char *tacit_instructions(void);

/* The verifier's rules, 1 to tacit_rule_count(): a short name and a sentence each; NULL beyond. */
TACIT_API int tacit_rule_count(void);
TACIT_API const char *tacit_rule_name(int rule);
TACIT_API const char *tacit_rule_sentence(int rule);

#ifdef __wasm__
/* The heap of the WebAssembly build, in the memory that the host made: it never grows. Blocks begin at
 * multiples of 64 and are not zeroed; NULL where none is large enough is left. */
TACIT_API void *tacit_allocate(size_t size);
TACIT_API void tacit_free(void *memory);
#endif

#ifdef __cplusplus
}
#endif

#endif
