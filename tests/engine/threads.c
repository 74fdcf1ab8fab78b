/* Many engines at once: every thread opens every tape for itself and plays it, and one that all share, on memory
 * of its own. All must come to the same bytes. Built with ThreadSanitizer, which stops it at the first race. */
#include <pthread.h>

#include "given.h"

enum { THREADS = 8, MOST_TAPES = 1024 };

static struct given given[MOST_TAPES];
static struct tacit_tape *shared[MOST_TAPES];
static int tapes;

static void *run(void *sums)
{
    for (int i = 0; i < tapes; i++) {
        struct tacit_tape *mine = opened(given[i]);
        struct memory memory = memory_for(mine);
        ((uint64_t *)sums)[i] = play(mine, &memory);
        if (play(shared[i], &memory) != ((uint64_t *)sums)[i])
            stop("a tape opened once for all computes other bytes");
        give_back(&memory);
        tacit_close(mine);
    }
    return NULL;
}

int main(void)
{
    static uint64_t sums[THREADS][MOST_TAPES];
    pthread_t thread[THREADS];
    while (tapes < MOST_TAPES && (given[tapes] = next_tape()).bytes) {
        shared[tapes] = opened(given[tapes]);
        tapes++;
    }
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&thread[i], NULL, run, sums[i]) != 0)
            stop("a thread cannot be started");
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    for (int i = 1; i < THREADS; i++)
        if (memcmp(sums[i], sums[0], sizeof sums[0]) != 0)
            stop("two threads computed different bytes");
    for (int i = 0; i < tapes; i++) {
        tacit_close(shared[i]);
        free(given[i].bytes);
    }
    printf("%d\n", tapes);
    return 0;
}
