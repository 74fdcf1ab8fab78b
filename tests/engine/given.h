/* What the C programs of the tests share: tapes from standard input, and memory to play them on.
 *
 * Input: for each tape its length as a 32-bit number, then its bytes. */
#ifndef GIVEN_H
#define GIVEN_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tacit.h"

struct memory {
    void *region[TACIT_REGIONS];
    size_t size[TACIT_REGIONS];
};

static inline void stop(const char *why)
{
    fprintf(stderr, "%s\n", why);
    abort();
}

static inline void *room(size_t size)
{
    void *memory = aligned_alloc(64, (size / 64 + 1) * 64);
    if (!memory)
        stop("there is not enough memory");
    return memory;
}

struct given {
    void *bytes;
    uint32_t length;
};

/* The next tape's bytes; NULL at the end. */
static inline struct given next_tape(void)
{
    struct given given = {0};
    if (fread(&given.length, sizeof given.length, 1, stdin) != 1)
        return given;
    given.bytes = room(given.length);
    if (fread(given.bytes, 1, given.length, stdin) != given.length)
        stop("the input is cut");
    return given;
}

static inline struct tacit_tape *opened(struct given given)
{
    struct tacit_tape *tape;
    struct tacit_refusal refusal;
    if (tacit_open(given.bytes, given.length, NULL, &tape, &refusal) != 0)
        stop(refusal.sentence);
    return tape;
}

static inline struct memory memory_for(const struct tacit_tape *tape)
{
    struct memory memory = {0};
    for (uint32_t i = 0; i < TACIT_REGIONS; i++)
        if ((memory.size[i] = (size_t)tacit_region_size(tape, i)) > 0)
            memory.region[i] = room(memory.size[i]);
    return memory;
}

static inline void give_back(struct memory *memory)
{
    for (int i = 0; i < TACIT_REGIONS; i++)
        free(memory->region[i]);
}

/* Plays twice on numbers between -1 and 1, denormals among them; returns a sum of every byte then in memory. */
static inline uint64_t play(const struct tacit_tape *tape, struct memory *memory)
{
    uint32_t seed = 1;
    for (int i = 0; i < TACIT_REGIONS; i++)
        for (size_t at = 0; at + 4 <= memory->size[i]; at += 4) {
            seed = seed * 1664525u + 1013904223u;
            const uint32_t word = (seed >> 8) % 17 ? 0x3f000000u + (seed >> 9) : seed >> 12;
            memcpy((uint8_t *)memory->region[i] + at, &(uint32_t){word | (seed & 0x80000000u)}, 4);
        }
    for (int first = 1; first >= 0; first--)
        if (tacit_play(tape, memory->region, memory->size, first) != TACIT_PLAYED)
            stop("a verified tape was not played");
    uint64_t sum = 0;
    for (int i = 0; i < TACIT_REGIONS; i++)
        for (size_t at = 0; at < memory->size[i]; at++)
            sum = (sum ^ ((uint8_t *)memory->region[i])[at]) * UINT64_C(1099511628211);
    return sum;
}

#endif
