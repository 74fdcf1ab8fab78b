/* Plays tapes for the program at the other end of a pipe. elsewhere.py is that program, and says how they talk. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tacit.h"

enum { MOST_TAPES = 1 << 16 };
enum command { ABOUT, OPEN, CLOSE, PLAY };

static struct tacit_tape *tapes[MOST_TAPES];
static uint32_t last;

static void stop(const char *why)
{
    fprintf(stderr, "%s\n", why);
    abort();
}

static void get(void *to, size_t size)
{
    if (size && fread(to, 1, size, stdin) != size)
        stop("the input is cut");
}

static void put(const void *from, size_t size)
{
    if (size && fwrite(from, 1, size, stdout) != size)
        stop("the output is closed");
}

static void put_word(uint32_t word)
{
    put(&word, sizeof word);
}

static void put_wide(uint64_t word)
{
    put(&word, sizeof word);
}

static void put_text(const char *text)
{
    put_word((uint32_t)strlen(text));
    put(text, strlen(text));
}

static void *block(size_t size)
{
    void *memory = aligned_alloc(64, (size / 64 + 1) * 64);
    if (!memory)
        stop("there is not enough memory");
    return memory;
}

static void open_tape(void)
{
    struct tacit_limits limits;
    struct tacit_refusal refusal = {0, -1, ""};
    uint32_t length;
    get(&limits, sizeof limits);
    get(&length, sizeof length);
    void *bytes = block(length);
    get(bytes, length);
    struct tacit_tape *tape;
    const int rule = tacit_open(bytes, length, &limits, &tape, &refusal);
    free(bytes);
    for (last = (last + 1) % MOST_TAPES; tapes[last]; last = (last + 1) % MOST_TAPES)
        ;
    tapes[last] = tape;
    put_word((uint32_t)rule);
    put_word((uint32_t)refusal.record);
    put_word(last);
    put_text(refusal.sentence);
    if (rule != 0)
        return;
    put_word(tacit_kind(tape));
    put_word(tacit_record_count(tape));
    put_wide(tacit_operations(tape));
    put_wide(tacit_moved(tape));
    for (uint32_t region = 0; region < TACIT_REGIONS; region++)
        put_wide(tacit_region_size(tape, region));
}

static void close_tape(void)
{
    uint32_t handle;
    get(&handle, sizeof handle);
    tacit_close(tapes[handle]);
    tapes[handle] = NULL;
}

static void play_tape(void)
{
    uint32_t handle, first;
    uint64_t sizes[TACIT_REGIONS];
    void *memory[TACIT_REGIONS] = {0};
    size_t size[TACIT_REGIONS];
    get(&handle, sizeof handle);
    get(&first, sizeof first);
    get(sizes, sizeof sizes);
    for (int i = 0; i < TACIT_REGIONS; i++) {
        size[i] = (size_t)sizes[i];
        if (size[i])
            get(memory[i] = block(size[i]), size[i]);
    }
    const int result = tacit_play(tapes[handle], memory, size, (int)first);
    put_word((uint32_t)result);
    for (int i = 0; i < TACIT_REGIONS; i++) {
        if (result == TACIT_PLAYED)
            put(memory[i], size[i]);
        free(memory[i]);
    }
}

int main(void)
{
    uint32_t command;
    while (fread(&command, sizeof command, 1, stdin) == 1) {
        switch ((enum command)command) {
        case ABOUT:
            put_word(tacit_version());
            put_text(tacit_instructions());
            break;
        case OPEN:
            open_tape();
            break;
        case CLOSE:
            close_tape();
            break;
        case PLAY:
            play_tape();
            break;
        }
        fflush(stdout);
    }
    return 0;
}
