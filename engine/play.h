/* What play.c shares with visit.c. */
#ifndef TACIT_PLAY_H
#define TACIT_PLAY_H

#include "format.h"
#include "tacit.h"

/* Whether each region that is needed is there, large enough, aligned, and apart from the others. */
int tacit_check_memory(const uint64_t need[REGIONS], void *const memory[REGIONS], const size_t size[REGIONS]);

#endif
