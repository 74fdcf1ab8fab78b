/* What is demanded of every tape, whoever made it. Built with address and undefined-behaviour checks.
 *
 * A refused tape names its rule. An accepted one is played twice from the same bytes: by tacit_play, on heap
 * blocks of exactly its regions' sizes; and record by record through the kernels' table, every operand alone
 * on a heap block of exactly the bytes that the verifier found the record to need. So a kernel that touches one
 * byte more than its operand's stops the program, even where a neighbour in the same region would have hidden
 * it. Inputs must come back unchanged, and both ways must leave the same bytes everywhere: what is outside a
 * record's outputs is written by nobody. Where steps are counted, a record may take so many as it says. */
#ifndef TACIT_FUZZ_ORACLE_H
#define TACIT_FUZZ_ORACLE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "tacit.h"

extern const struct tacit_limits LIMITS;
enum { MOST_MEMORY = 1 << 22, MOST_SECONDS = 20 };

struct tally {
    uint64_t refused[64]; /* by rule; [0] counts the accepted ones */
    uint64_t records, unplayed; /* records played; accepted tapes whose regions are too large to try */
    double dearest;       /* the most steps for each operation and byte, where steps are counted */
};

/* Stops the program if anything demanded does not hold. Returns the rule that refused it, or 0. */
int try_tape(const uint8_t *bytes, size_t length, struct tally *tally);

/* One line: records played, accepted tapes not played, the dearest record, tapes accepted, refused by each rule. */
void say(FILE *to, const struct tally *tally);

/* Says why and aborts. */
_Noreturn void stop(const char *why);

#endif
