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
    TACIT_REGION_SHARED = 3,  /* two regions overlap; nothing was played */

    /* Of tacit_visit alone. */
    TACIT_PAUSED = 4,             /* as asked; call again to go on */
    TACIT_LOSS_NOT_FINITE = 5,    /* training diverged */
    TACIT_DELTA_NOT_FINITE = 6,   /* training diverged; `delta` is zeros */
    TACIT_TAPES_WRONG = 7,        /* a tape is missing or of another kind */
    TACIT_PLACES_WRONG = 8,       /* the tensors do not hold `values` values, or one has no place */
    TACIT_FIELDS_WRONG = 9,       /* a field is not possible, or has fewer rows than there are examples */
    TACIT_ORDER_WRONG = 10,       /* no such example, or the minibatches do not add up */
    TACIT_WEIGHTS_WRONG = 11,     /* negative, not finite, or all 0 in one minibatch */
    TACIT_MICROBATCH_PARTIAL = 12 /* a short micro-batch or a weight of 0 where only whole ones may be */
};

/* Plays the tape once. `memory` and `size` have one entry a region; entries of regions that the tape
 * does not touch are not looked at. Nobody else may write to the others meanwhile. `first` says that
 * this is a minibatch's first micro-batch: what accumulates begins anew. Denormals are flushed to zero
 * while it runs, where the processor can; the floating-point mode is restored before it returns. */
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

/* ---- A visit ---------------------------------------------------------------------------------------
 *
 * Local training in one call: a Snapshot goes in, every micro-batch and every optimizer step is played,
 * and what they changed comes out. The caller says which tapes on which memory, which examples in which
 * order, and owns every byte; nothing is allocated. Randomness stays with the caller, who draws the order.
 *
 *     struct tacit_visit visit = {.train = train, .apply = apply, .places = places, ...};
 *     for (uint32_t region = 0; region < TACIT_REGIONS; region++)
 *         if ((visit.size[region] = tacit_visit_region_size(&visit, region)) > 0 && region != TACIT_FROZEN)
 *             visit.memory[region] = memory of that size, 64-byte aligned;
 *     visit.memory[TACIT_FROZEN] = the Plan's frozen bytes, 64-byte aligned;
 *     struct tacit_progress progress = {0};
 *     int result = tacit_visit(&visit, &progress);
 *     if (result != TACIT_PLAYED)
 *         fprintf(stderr, "%s\n", tacit_result_sentence(result));
 *
 * docs/reference/embedding.md has the whole of it; examples/embed/train.c is a program. */

/* One trained tensor, in a Snapshot and in STATE. A Snapshot holds value (group, output, channel, pixel) of one
 * tensor after the other, the last index running fastest. In STATE each group's outputs stand in panels of 16:
 * float (((group * up(outputs, 16) / 16 + output / 16) * pixels + pixel) * channels + channel) * 16 + output % 16. */
struct tacit_place {
    uint64_t offset; /* bytes into STATE */
    uint32_t groups, outputs, channels, pixels;
};

/* One input, label or kept result: a row for each example, and where a micro-batch's rows stand in a region. */
struct tacit_field {
    uint64_t offset;   /* bytes into the region */
    uint64_t row;      /* bytes of one example */
    uint32_t channels; /* above 1: an image [channels][pixels] of four bytes a value, turned to [pixels][channels] */
    uint32_t unused;   /* 0 */
};

/* An array of rows, of `size` bytes in all. */
struct tacit_rows {
    const void *bytes;
    size_t size;
};

/* Where a visit is. All zeros: not begun. */
struct tacit_progress {
    uint64_t microbatches; /* played so far */
    uint64_t steps;        /* the optimizer's steps so far */
    uint64_t taken;        /* how much of `order` these steps took */
    uint64_t within;       /* examples taken of the step that is under way; 0 right after a step */
    float divisor;         /* that step's summed weight */
    float loss;            /* the loss of that step so far, or of the last one */
};

struct tacit_visit {
    const struct tacit_tape *prefix; /* NULL where the rows are kept ones, or the Plan has no prefix */
    const struct tacit_tape *train, *apply;
    void *memory[TACIT_REGIONS];
    size_t size[TACIT_REGIONS];

    const struct tacit_place *places; /* the trained tensors, in the Plan's order */
    size_t place_count;
    const float *snapshot; /* where the visit begins: `values` floats */
    float *delta;          /* what it changed: as many; written at the end of the visit only */
    size_t values;

    size_t examples;
    const struct tacit_field *fields; /* the inputs, in X; or what the prefix keeps, in KEPT */
    const struct tacit_rows *rows;    /* of each field: a row for every example */
    size_t field_count;
    struct tacit_field label; /* in Y; a label outside the Plan's classes has no loss, and yet its weight */
    struct tacit_rows labels;
    const float *weights; /* of each example: finite, not negative */

    const uint32_t *order; /* the examples in the order they are trained on; one may come more than once */
    size_t order_count;
    const uint32_t *minibatches; /* how many of them each step takes: they add up to order_count */
    const float *rates;          /* each step's learning rate */
    size_t step_count;
    uint64_t seed; /* the first micro-batch's masks are drawn from it, the next one's from seed + 1, and so on */

    uint32_t microbatch; /* examples that the train tape takes at once; a short one is filled with weight 0 */
    uint32_t kept;       /* 1: the rows are what the prefix left, and go to KEPT */
    uint32_t whole;      /* 1: the Plan's norms use the statistics of whole micro-batches; short ones are refused */
    uint32_t most;       /* micro-batches to play in this call, then it pauses; 0: all of them */

    /* Called after every micro-batch; may be NULL. Anything but 0 pauses the visit. */
    int (*after)(void *context, const struct tacit_progress *progress);
    void *context;
};

/* Plays a visit on from where it is, to its end or until it pauses. TACIT_PLAYED: it is over and `delta` written.
 * TACIT_PAUSED: call again to go on with the same visit and memory, or never to cancel it. Everything else: it
 * cannot go on, and `delta` is not written. The first call checks the whole visit before anything is played. */
TACIT_API int tacit_visit(const struct tacit_visit *visit, struct tacit_progress *progress);

/* The bytes of a region that a visit needs: by its tapes, and for what it writes itself. Asks for the tapes,
 * places, fields, label, `microbatch` and `kept`. */
TACIT_API uint64_t tacit_visit_region_size(const struct tacit_visit *visit, uint32_t region);

/* A result in English. */
TACIT_API const char *tacit_result_sentence(int result);

#ifdef __cplusplus
}
#endif

#endif
