/* Tries tapes from standard input: for each its length as a 32-bit number, then its bytes. `--replay FILE` tries one.
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
    if (count != 2)
        stop("say where a tape that fails is to be left");
    struct tally tally = {{0}, 0, 0, 0};
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
