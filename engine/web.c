/* The heap of the WebAssembly build: what lies between the program's own data and the end of the memory that
 * the host made, which never grows. Blocks begin at multiples of 64, as regions must.
 *
 * A list of blocks in the order of their addresses; the first free one that is large enough is taken, and what
 * is freed is joined with its free neighbours. Tapes and regions are few, so the list is short. */
#ifdef __wasm__
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "tacit.h"

enum { BLOCK = 64 };

struct block {
    _Alignas(BLOCK) struct block *next; /* NULL: the last */
    size_t size;                        /* of what follows this head */
    bool taken;
};

_Static_assert(sizeof(struct block) == BLOCK, "what follows a head is aligned");

extern uint8_t __heap_base; /* set by the linker */
static struct block *first;

static void begin(void)
{
    const uintptr_t start = ((uintptr_t)&__heap_base + BLOCK - 1) / BLOCK * BLOCK;
    const uintptr_t end = (uintptr_t)__builtin_wasm_memory_size(0) * 65536;
    first = (struct block *)start;
    *first = (struct block){.size = end - start - BLOCK};
}

void *malloc(size_t size)
{
    if (!first)
        begin();
    if (size > SIZE_MAX - 2 * BLOCK)
        return NULL;
    size = (size + BLOCK - 1) / BLOCK * BLOCK;
    for (struct block *block = first; block; block = block->next) {
        if (block->taken || block->size < size)
            continue;
        if (block->size - size >= 2 * BLOCK) {
            struct block *rest = (struct block *)((uint8_t *)(block + 1) + size);
            *rest = (struct block){block->next, block->size - size - BLOCK, false};
            block->next = rest;
            block->size = size;
        }
        block->taken = true;
        return block + 1;
    }
    return NULL;
}

void free(void *memory)
{
    if (!memory)
        return;
    ((struct block *)memory - 1)->taken = false;
    for (struct block *block = first; block; block = block->next)
        while (!block->taken && block->next && !block->next->taken) {
            block->size += BLOCK + block->next->size;
            block->next = block->next->next;
        }
}

void *tacit_allocate(size_t size)
{
    return malloc(size);
}

void tacit_free(void *memory)
{
    free(memory);
}
#else
typedef int nothing_here; /* a file of C is not empty */
#endif
