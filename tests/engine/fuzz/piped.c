/* Tries tapes from standard input: for each its length as a 32-bit number, then its bytes.
 *
 *     piped LEFT                       tries each of them
 *     piped LEFT --change COUNT SEED   tries so many that mutate.c makes of them, and goes on from those accepted
 *     piped --replay FILE              tries one
 *
 * Says on standard output, now and then and at the end, how many were accepted and refused by each rule, and what
 * was played. What stops it, a sanitizer, an oracle or a tape that takes too long, leaves the tape in the file named
 * first. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "oracle.h"

void __sanitizer_set_death_callback(void (*callback)(void));
const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
    return "handle_abort=1:quarantine_size_mb=16:detect_leaks=1:allocator_may_return_null=0";
}

enum { TAPES_A_LINE = 2000, MOST_LENGTH = 1 << 25 };

static struct {
    const char *path;
    const uint8_t *bytes;
    size_t length;
} current;

static void save(void)
{
    FILE *file = current.bytes ? fopen(current.path, "wb") : NULL;
    if (!file)
        return;
    fwrite(current.bytes, 1, current.length, file);
    fclose(file);
}

static void too_long(int signal)
{
    (void)signal;
    stop("a tape within the limits took too long");
}

static void begin_tape(const char *path, const uint8_t *bytes, size_t length)
{
    current.path = path;
    current.bytes = bytes;
    current.length = length;
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {MOST_SECONDS, 0}}, NULL);
}

static uint8_t *taken(FILE *file, size_t length)
{
    uint8_t *bytes = malloc(length ? length : 1);
    if (!bytes || fread(bytes, 1, length, file) != length)
        stop("the input is cut");
    return bytes;
}

/* ---- Tapes changed here, without libFuzzer ---------------------------------------------------------- */

size_t LLVMFuzzerMutate(uint8_t *bytes, size_t length, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t length, size_t most, unsigned seed);

static uint32_t state;

static uint32_t draw(void)
{
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

/* What libFuzzer would do better: a bit, or the end. */
size_t LLVMFuzzerMutate(uint8_t *bytes, size_t length, size_t most)
{
    (void)most;
    if (length == 0 || draw() % 4 == 0)
        return length - (length > 0 ? draw() % length : 0);
    bytes[draw() % length] ^= (uint8_t)(1u << draw() % 8);
    return length;
}

struct kept {
    uint8_t *bytes;
    uint32_t length;
};

enum { MOST_KEPT = 2048, MORE_RECORDS = 4 };

static void change_all(const char *left, uint64_t count, uint32_t seed, struct tally *tally)
{
    static struct kept kept[MOST_KEPT];
    uint32_t tapes = 0, length;
    while (tapes < MOST_KEPT && fread(&length, sizeof length, 1, stdin) == 1 && length <= MOST_LENGTH) {
        kept[tapes].bytes = taken(stdin, length);
        kept[tapes++].length = length;
    }
    if (tapes == 0)
        stop("there is no tape to begin from");
    state = seed;
    for (uint64_t i = 1; i <= count; i++) {
        struct kept *from = &kept[draw() % tapes];
        const size_t most = from->length + MORE_RECORDS * 512;
        uint8_t *bytes = malloc(most);
        if (!bytes)
            stop("there is not enough memory");
        memcpy(bytes, from->bytes, from->length);
        length = (uint32_t)LLVMFuzzerCustomMutator(bytes, from->length, most, draw());
        begin_tape(left, bytes, length);
        const int rule = try_tape(bytes, length, tally);
        current.bytes = NULL;
        if (rule == 0 && draw() % 4 == 0) {
            free(from->bytes);
            *from = (struct kept){bytes, length};
        } else {
            free(bytes);
        }
        if (i % TAPES_A_LINE == 0)
            say(stdout, tally);
    }
    for (uint32_t i = 0; i < tapes; i++)
        free(kept[i].bytes);
}

/* ---- Tapes as they come ----------------------------------------------------------------------------- */

static int replay(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0)
        stop("the tape cannot be read");
    const size_t length = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = taken(file, length);
    fclose(file);
    struct tally tally = {{0}, 0, 0, 0};
    begin_tape("/dev/null", bytes, length);
    const int rule = try_tape(bytes, length, &tally);
    printf("%s\n", rule ? tacit_rule_sentence(rule) : "accepted, and everything held");
    free(bytes);
    return 0;
}

int main(int count, char **argument)
{
    __sanitizer_set_death_callback(save);
    signal(SIGALRM, too_long);
    if (count == 3 && strcmp(argument[1], "--replay") == 0)
        return replay(argument[2]);
    struct tally tally = {{0}, 0, 0, 0};
    if (count == 5 && strcmp(argument[2], "--change") == 0) {
        change_all(argument[1], strtoull(argument[3], NULL, 10), (uint32_t)strtoul(argument[4], NULL, 10), &tally);
        say(stdout, &tally);
        return 0;
    }
    if (count != 2)
        stop("say where a tape that fails is to be left");
    uint32_t length;
    for (uint64_t tried = 1; fread(&length, sizeof length, 1, stdin) == 1; tried++) {
        if (length > MOST_LENGTH)
            stop("the input is no list of tapes");
        uint8_t *bytes = taken(stdin, length);
        begin_tape(argument[1], bytes, length);
        try_tape(bytes, length, &tally);
        current.bytes = NULL;
        free(bytes);
        if (tried % TAPES_A_LINE == 0)
            say(stdout, &tally);
    }
    say(stdout, &tally);
    return 0;
}
