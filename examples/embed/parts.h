/* Reads what `tacit export` writes and a file of examples, as docs/reference/embedding.md describes both. Little-endian
 * machines only, as the engine itself. What cannot be read ends the program with a sentence. */
#ifndef PARTS_H
#define PARTS_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tacit.h"

/* The file `program`: this, the trained tensors, the fields of inputs and label, the fields of what is kept. */
struct program {
    char magic[8];
    uint32_t format, microbatch;
    uint64_t values;
    uint32_t places, inputs, kept, whole, balanced, epochs, minibatch;
    float rate;
    uint8_t unused[8];
};

_Static_assert(sizeof(struct program) == 64 && sizeof(struct tacit_place) == 24 && sizeof(struct tacit_field) == 24,
               "these structs are read as they lie in the file");

static inline void give_up(const char *form, ...)
{
    va_list words;
    va_start(words, form);
    vfprintf(stderr, form, words);
    va_end(words);
    fputc('\n', stderr);
    exit(1);
}

/* `size` zero bytes that begin at a multiple of 64. */
static inline void *room(size_t size)
{
    void *made = aligned_alloc(64, (size + 64) / 64 * 64);
    if (!made)
        give_up("there is not enough memory for %zu bytes", size);
    return memset(made, 0, size);
}

/* The whole of folder/name; NULL if there is no such file. `folder` may be NULL. */
static inline void *read_file(const char *folder, const char *name, size_t *size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s%s%s", folder ? folder : "", folder ? "/" : "", name);
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    void *bytes = room(*size);
    if (fread(bytes, 1, *size, file) != *size)
        give_up("%s cannot be read", path);
    fclose(file);
    return bytes;
}

static inline struct tacit_tape *open_tape(const char *folder, const char *name)
{
    size_t size;
    void *bytes = read_file(folder, name, &size);
    struct tacit_refusal refusal;
    struct tacit_tape *tape = NULL;
    if (bytes && tacit_open(bytes, size, NULL, &tape, &refusal) != 0)
        give_up("%s is refused in record %d by rule %d: %s", name, refusal.record, refusal.rule, refusal.sentence);
    free(bytes);
    return tape;
}

/* Fills in what a visit takes from the parts of a Plan: tapes, tensors, fields, the Snapshot, and its memory. */
static inline const struct program *read_parts(const char *folder, struct tacit_visit *visit)
{
    size_t size = 0;
    const struct program *program = read_file(folder, "program", &size);
    if (!program || size < sizeof *program || memcmp(program->magic, "TACITPRT", 8) != 0 || program->format != 1 ||
        size != sizeof *program + 24 * ((size_t)program->places + program->inputs + 1 + program->kept))
        give_up("%s holds no parts that `tacit export` wrote for this program", folder);
    visit->places = (const struct tacit_place *)(program + 1);
    visit->place_count = program->places;
    visit->fields = (const struct tacit_field *)(visit->places + program->places);
    visit->field_count = program->inputs;
    visit->label = visit->fields[program->inputs];
    visit->microbatch = program->microbatch;
    visit->whole = program->whole;
    visit->values = program->values;
    visit->prefix = open_tape(folder, "prefix.tape");
    visit->train = open_tape(folder, "train.tape");
    visit->apply = open_tape(folder, "apply.tape");
    visit->snapshot = read_file(folder, "snapshot", &size);
    if (!visit->train || !visit->apply || !visit->snapshot || size / sizeof(float) != program->values)
        give_up("%s lacks a tape, or its Snapshot has another size", folder);
    visit->delta = room(size);
    visit->memory[TACIT_FROZEN] = read_file(folder, "frozen", &visit->size[TACIT_FROZEN]);
    for (uint32_t region = 0; region < TACIT_REGIONS; region++)
        if (region != TACIT_FROZEN && (visit->size[region] = tacit_visit_region_size(visit, region)) > 0)
            visit->memory[region] = room(visit->size[region]);
    return program;
}

/* Fills in the examples: how many (four bytes), the rows of each input, the labels, the weights. */
static inline void read_examples(const char *path, struct tacit_visit *visit)
{
    size_t size = 0, end = sizeof(uint32_t);
    const uint8_t *bytes = read_file(NULL, path, &size);
    uint32_t examples;
    if (!bytes || size < end)
        give_up("%s is not a file of examples", path);
    memcpy(&examples, bytes, sizeof examples);
    struct tacit_rows *rows = room(visit->field_count * sizeof *rows);
    for (size_t i = 0; i < visit->field_count; i++, end += rows[i - 1].size)
        rows[i] = (struct tacit_rows){bytes + end, examples * visit->fields[i].row};
    visit->labels = (struct tacit_rows){bytes + end, examples * visit->label.row};
    end += visit->labels.size;
    if (examples == 0 || size != end + examples * sizeof(float))
        give_up("%s is not a file of examples of this Plan", path);
    visit->weights = (const float *)(bytes + end);
    visit->rows = rows;
    visit->examples = examples;
}

#endif
