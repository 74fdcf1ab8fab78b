/* The verifier: whether a tape may be played. docs/reference/verifier.md is written from this table. */
#ifndef TACIT_VERIFY_H
#define TACIT_VERIFY_H

#include "format.h"
#include "tacit.h"

/* Every rule, in the order of its number. The first one broken is the one reported. */
#define RULES(RULE)                                                                                          \
    RULE(LENGTH, "length", "a tape has a header of 256 bytes and 512 bytes for each record")                 \
    RULE(MAGIC, "magic", "a tape begins with the eight letters TACITAPE")                                    \
    RULE(VERSION, "version", "the tape's format is not the one this engine plays; update tacit")             \
    RULE(RECORD_SIZE, "record size", "the header says 512 bytes for a record")                               \
    RULE(RECORD_COUNT, "record count", "a tape has at most 65536 records")                                   \
    RULE(KIND, "kind", "a tape is a prefix, train, apply, evaluate or predict tape")                         \
    RULE(HEADER_RESERVED, "header reserved", "the header's unused bytes are zero")                           \
    RULE(REGION_SIZE, "region size", "a region has less than 2^47 bytes, and an unknown one has none")       \
    RULE(MEMORY, "memory", "there was not enough memory to copy the tape; nothing is wrong with it")         \
    RULE(OPERATION, "operation", "the operation is unknown")                                                 \
    RULE(ACCUMULATE, "accumulate", "this operation cannot accumulate in the way asked for")                  \
    RULE(OPERAND_COUNT, "operand count", "a record names each operand of its operation, absent ones too")    \
    RULE(RECORD_RESERVED, "record reserved", "unused operands are absent, unused words are zero")            \
    RULE(PARAMETER, "parameter", "a parameter is outside its range")                                         \
    RULE(GEOMETRY, "geometry", "the output's height and width follow from image, kernel, stride and padding") \
    RULE(GROUPS, "groups", "groups divide channels and outputs, and with groups or dilation a kernel has at " \
                           "most 1024 taps")                                                                 \
    RULE(MAP_SHAPE, "map shape", "a map has 1 to 8 operands with an output among them, at most 24 instructions, " \
                                 "and a total that is a multiple of rows times channels")                    \
    RULE(MAP_INPUT, "map input", "an input's mode is unknown or its stride is out of place")                 \
    RULE(MAP_INSTRUCTION, "map instruction", "an instruction's function is unknown or an unused field is not zero") \
    RULE(MAP_REGISTER, "map register", "an instruction writes a temporary and reads what was written before; " \
                                       "an output is stored from a temporary")                               \
    RULE(REQUIRED, "required operand", "an operand that the operation needs is absent")                      \
    RULE(REGION, "region", "an operand lies in an unknown region")                                           \
    RULE(BOUNDS, "bounds", "an operand lies inside its region")                                              \
    RULE(ALIGNED, "aligned", "an operand begins at a multiple of 4 bytes; panels and scratch, of 64")        \
    RULE(EXTENT, "extent", "an operand has at least the bytes that its operation touches")                   \
    RULE(WRITABLE, "writable", "a tape of this kind may not write to this region")                           \
    RULE(OVERLAP, "overlap", "an output shares no byte with another operand, but for a map's that stands "   \
                             "exactly on a linear input, or where tape.py says so")                                                    \
    RULE(PACE, "pace", "what a convolution copies, clears and looks up beside its multiply-adds is in proportion to " \
                       "its operations and bytes")                                                           \
    RULE(TOTALS, "totals", "the header's operations and bytes moved are the sums over its records")          \
    RULE(LIMITS, "limits", "the tape costs more operations or bytes than the caller allows")

#define RULE_NUMBER(NAME, name, sentence) RULE_##NAME,
enum rule { RULE_NONE, RULES(RULE_NUMBER) RULES_END };

struct verdict {
    enum rule rule; /* RULE_NONE: it may be played */
    int32_t record; /* -1: the tape as a whole */
};

/* What can be said from the header and the length alone; `header` need not be aligned to be passed by
 * value. Only if it is accepted are the records all there. */
struct verdict tacit_verify_header(const struct header *header, uint64_t length);

/* Everything else. */
struct verdict tacit_verify_records(const struct header *header, const struct record *records,
                                    const struct tacit_limits *limits);

#endif
