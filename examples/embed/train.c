/* Trains one visit of a Plan on examples of this machine, without Python: train PARTS EXAMPLES SEED DELTA */
#include <signal.h>

#include "parts.h"

static volatile sig_atomic_t interrupted;

static void interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

/* After every micro-batch: tells how far it is, and stops the visit after Ctrl-C. */
static int tell(void *context, const struct tacit_progress *progress)
{
    const struct tacit_visit *visit = context;
    if (progress->within == 0)
        printf("step %d of %d: loss %.6f\n", (int)progress->steps, (int)visit->step_count, progress->loss);
    return interrupted;
}

/* Every epoch's examples, shuffled (xorshift32: it protects nobody), and cut into minibatches. */
static void draw_order(struct tacit_visit *visit, const struct program *program, uint32_t seed)
{
    const uint32_t n = (uint32_t)visit->examples, size = program->minibatch;
    const uint32_t used = program->whole ? n - n % size : n, steps = (used + size - 1) / size;
    uint32_t *order = room((size_t)program->epochs * n * sizeof *order);
    uint32_t *sizes = room((size_t)program->epochs * steps * sizeof *sizes);
    float *rates = room((size_t)program->epochs * steps * sizeof *rates);
    visit->order = order, visit->minibatches = sizes, visit->rates = rates;
    for (uint32_t epoch = 0; epoch < program->epochs; epoch++, order += used, visit->order_count += used) {
        for (uint32_t i = 0; i < n; i++) {
            seed ^= seed << 13, seed ^= seed >> 17, seed ^= seed << 5;
            const uint32_t j = seed % (i + 1);
            order[i] = order[j], order[j] = i;
        }
        for (uint32_t left = used; left > 0; left -= *sizes++, visit->step_count++)
            *sizes = left < size ? left : size, *rates++ = program->rate;
    }
}

int main(int count, char **words)
{
    if (count != 5)
        give_up("usage: train PARTS EXAMPLES SEED DELTA\nPARTS is a folder that `tacit export` wrote; SEED is above 0");
    struct tacit_visit visit = {.after = tell, .context = &visit, .seed = strtoul(words[3], NULL, 10)};
    const struct program *program = read_parts(words[1], &visit);
    if (program->balanced)
        give_up("this Plan trains from a shifted bias (docs/decisions/0011), which this example does not do");
    read_examples(words[2], &visit);
    draw_order(&visit, program, (uint32_t)visit.seed);
    signal(SIGINT, interrupt);

    struct tacit_progress progress = {0};
    const int result = tacit_visit(&visit, &progress);
    if (result != TACIT_PLAYED)
        give_up("no delta: %s", tacit_result_sentence(result));
    FILE *file = fopen(words[4], "wb");
    if (!file || fwrite(visit.delta, sizeof(float), visit.values, file) != visit.values || fclose(file) != 0)
        give_up("%s cannot be written", words[4]);
    printf("%d micro-batches, %d values in %s\n", (int)progress.microbatches, (int)visit.values, words[4]);
    return 0;
}
