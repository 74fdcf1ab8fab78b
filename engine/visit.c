/* A visit: a Snapshot goes in, micro-batches and steps are played, a delta comes out.
 *
 * Nothing that the caller says is used as a place before it was checked, and what may have been changed since an
 * earlier call (the order, the progress) is checked where it is used. */
#include <stdbool.h>
#include <string.h>

#include "need.h"
#include "play.h"
#include "tacit.h"

static const enum tacit_region states[] = {TACIT_STATE, TACIT_GRADIENT, TACIT_MOMENT, TACIT_START}; /* laid out alike */
enum { STATES = sizeof states / sizeof *states, LOSS_BYTES = 4, RATE_BYTES = 4, DIVISOR_BYTES = 4, SEED_BYTES = 8 };

/* ---- What it needs -------------------------------------------------------------------------------- */

static uint64_t largest(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t values_of(const struct tacit_place *place)
{
    return times4(place->groups, place->outputs, place->channels, place->pixels);
}

static uint64_t place_end(const struct tacit_place *place)
{
    return plus(place->offset, floats(times4(place->groups, up(place->outputs, PANEL), place->channels, place->pixels)));
}

static uint64_t field_end(const struct tacit_field *field, uint32_t microbatch)
{
    return plus(field->offset, times(field->row, microbatch));
}

static uint64_t of_tapes(const struct tacit_visit *visit, uint32_t region)
{
    const struct tacit_tape *tapes[] = {visit->prefix, visit->train, visit->apply};
    uint64_t most = 0;
    for (int i = 0; i < 3; i++)
        if (tapes[i])
            most = largest(most, tacit_region_size(tapes[i], region));
    return most;
}

static uint64_t state_size(const struct tacit_visit *visit)
{
    uint64_t most = 0;
    for (int i = 0; i < STATES; i++)
        most = largest(most, of_tapes(visit, states[i]));
    for (size_t i = 0; i < visit->place_count; i++)
        most = largest(most, place_end(&visit->places[i]));
    return most;
}

static uint64_t fields_size(const struct tacit_visit *visit)
{
    uint64_t most = 0;
    for (size_t i = 0; i < visit->field_count; i++)
        most = largest(most, field_end(&visit->fields[i], visit->microbatch));
    return most;
}

uint64_t tacit_visit_region_size(const struct tacit_visit *visit, uint32_t region)
{
    const uint64_t tapes = of_tapes(visit, region);
    switch (region) {
    case TACIT_STATE:
        return state_size(visit);
    case TACIT_GRADIENT:
    case TACIT_MOMENT:
    case TACIT_START:
        return tapes ? state_size(visit) : 0;
    case TACIT_X:
        return largest(tapes, visit->kept ? 0 : fields_size(visit));
    case TACIT_KEPT:
        return largest(tapes, visit->kept ? fields_size(visit) : 0);
    case TACIT_Y:
        return largest(tapes, field_end(&visit->label, visit->microbatch));
    case TACIT_WEIGHT:
        return largest(tapes, floats(visit->microbatch));
    case TACIT_DIVISOR:
        return largest(tapes, DIVISOR_BYTES);
    case TACIT_LOSS:
        return largest(tapes, LOSS_BYTES);
    case TACIT_RATE:
        return largest(tapes, RATE_BYTES);
    case TACIT_SEED:
        return tapes ? largest(tapes, SEED_BYTES) : 0;
    default:
        return tapes;
    }
}

/* ---- Whether it can be played ----------------------------------------------------------------------- */

static bool of_kind(const struct tacit_tape *tape, enum tacit_kind kind)
{
    return tape && tacit_kind(tape) == kind;
}

static bool places_hold(const struct tacit_visit *visit)
{
    if (!visit->places || !visit->snapshot || !visit->delta || visit->values == 0)
        return false;
    uint64_t values = 0;
    for (size_t i = 0; i < visit->place_count; i++) {
        const struct tacit_place *place = &visit->places[i];
        if (place->offset % sizeof(float) != 0 || values_of(place) == 0)
            return false;
        values = plus(values, values_of(place));
    }
    return values == visit->values;
}

static bool field_holds(const struct tacit_field *field, const struct tacit_rows *rows, size_t examples)
{
    const bool image = field->channels > 1;
    return rows->bytes && field->row > 0 && field->unused == 0 && field->offset % sizeof(float) == 0 &&
           (!image || field->row % times(sizeof(float), field->channels) == 0) &&
           times(field->row, examples) <= rows->size;
}

static bool fields_hold(const struct tacit_visit *visit)
{
    if (!visit->fields || !visit->rows || visit->field_count == 0 || visit->examples == 0 || visit->microbatch == 0)
        return false;
    for (size_t i = 0; i < visit->field_count; i++)
        if (!field_holds(&visit->fields[i], &visit->rows[i], visit->examples))
            return false;
    return field_holds(&visit->label, &visit->labels, visit->examples);
}

/* What every call asks: all that does not grow with the examples. */
static int check_pieces(const struct tacit_visit *visit)
{
    if (!of_kind(visit->train, TACIT_TRAIN) || !of_kind(visit->apply, TACIT_APPLY) ||
        (visit->prefix && (visit->kept || !of_kind(visit->prefix, TACIT_PREFIX))))
        return TACIT_TAPES_WRONG;
    if (!places_hold(visit))
        return TACIT_PLACES_WRONG;
    if (!fields_hold(visit))
        return TACIT_FIELDS_WRONG;
    uint64_t need[REGIONS];
    for (uint32_t region = 0; region < REGIONS; region++)
        need[region] = tacit_visit_region_size(visit, region);
    return tacit_check_memory(need, visit->memory, visit->size);
}

/* The summed weight of `count` examples; NaN where one is not there or its weight is not one. */
static double summed_weight(const struct tacit_visit *visit, const uint32_t *order, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        const uint32_t example = order[i];
        if (example >= visit->examples)
            return __builtin_nan("");
        const float weight = visit->weights[example];
        if (!(weight >= 0)) /* NaN too; an infinite one makes the sum infinite */
            return __builtin_nan("");
        sum += weight;
    }
    return sum;
}

/* What the first call asks besides: every step's examples and weights. */
static int check_work(const struct tacit_visit *visit)
{
    if (!visit->order || !visit->minibatches || !visit->rates || visit->step_count == 0)
        return TACIT_ORDER_WRONG;
    if (!visit->weights)
        return TACIT_WEIGHTS_WRONG;
    for (size_t i = 0; i < visit->order_count; i++)
        if (visit->order[i] >= visit->examples)
            return TACIT_ORDER_WRONG;
    size_t taken = 0;
    for (size_t step = 0; step < visit->step_count; step++) {
        const uint32_t minibatch = visit->minibatches[step];
        if (minibatch == 0 || minibatch > visit->order_count - taken)
            return TACIT_ORDER_WRONG;
        const uint32_t *order = visit->order + taken;
        const float sum = (float)summed_weight(visit, order, minibatch);
        if (!(sum > 0 && __builtin_isfinite(sum)))
            return TACIT_WEIGHTS_WRONG;
        if (visit->whole) {
            if (minibatch % visit->microbatch != 0)
                return TACIT_MICROBATCH_PARTIAL;
            for (uint32_t i = 0; i < minibatch; i++)
                if (visit->weights[order[i]] == 0)
                    return TACIT_MICROBATCH_PARTIAL;
        }
        taken += minibatch;
    }
    return taken == visit->order_count ? TACIT_PLAYED : TACIT_ORDER_WRONG;
}

/* ---- Snapshot and state ----------------------------------------------------------------------------- */

/* Rows of a panel at a time: 4 KiB of it, which stay near while each output's values are read one after another. */
enum { STRETCH = 64 };

/* Both ways between flat values and panels: with `delta`, what stands in the panels less the Snapshot goes there;
 * without, the Snapshot goes into the panels. */
static void between_panels(const struct tacit_visit *visit, float *delta)
{
    const float *flat = visit->snapshot;
    for (size_t i = 0; i < visit->place_count; i++) {
        const struct tacit_place *place = &visit->places[i];
        const size_t pixels = place->pixels, channels = place->channels, inner = channels * pixels;
        float *panel = (float *)((uint8_t *)visit->memory[TACIT_STATE] + place->offset);
        for (uint32_t group = 0; group < place->groups; group++)
            for (uint32_t first = 0; first < place->outputs; first += PANEL) {
                const uint32_t left = place->outputs - first, lanes = left < PANEL ? left : PANEL;
                const size_t begin = ((size_t)group * place->outputs + first) * inner;
                for (size_t pixel = 0; pixel < pixels; pixel++)
                    for (size_t from = 0; from < channels; from += STRETCH) {
                        const size_t some = channels - from < STRETCH ? channels - from : STRETCH;
                        for (uint32_t lane = 0; lane < lanes; lane++) {
                            const size_t at = begin + lane * inner + from * pixels + pixel;
                            for (size_t channel = 0; channel < some; channel++) {
                                float *value = &panel[channel * PANEL + lane];
                                if (delta)
                                    delta[at + channel * pixels] = *value - flat[at + channel * pixels];
                                else
                                    *value = flat[at + channel * pixels];
                            }
                        }
                        panel += some * PANEL;
                    }
            }
        flat += values_of(place);
        if (delta)
            delta += values_of(place);
    }
}

static void load_snapshot(const struct tacit_visit *visit)
{
    const uint64_t size = state_size(visit);
    for (int i = 0; i < STATES; i++)
        if (tacit_visit_region_size(visit, states[i]) > 0)
            memset(visit->memory[states[i]], 0, size);
    between_panels(visit, NULL);
    if (tacit_visit_region_size(visit, TACIT_START) > 0)
        memcpy(visit->memory[TACIT_START], visit->memory[TACIT_STATE], size);
}

static int take_delta(const struct tacit_visit *visit)
{
    between_panels(visit, visit->delta);
    bool finite = true; /* no branch, so that many are looked at at once */
    for (size_t i = 0; i < visit->values; i++)
        finite &= __builtin_isfinite(visit->delta[i]) != 0;
    if (!finite) {
        memset(visit->delta, 0, visit->values * sizeof(float)); /* so that nobody sends it */
        return TACIT_DELTA_NOT_FINITE;
    }
    return TACIT_PLAYED;
}

/* ---- A micro-batch ---------------------------------------------------------------------------------- */

static void copy_row(const struct tacit_field *field, uint8_t *to, const uint8_t *from)
{
    if (field->channels < 2) {
        memcpy(to, from, field->row);
        return;
    }
    const size_t value = sizeof(float), channels = field->channels, pixels = field->row / (value * channels);
    for (size_t pixel = 0; pixel < pixels; pixel++)
        for (size_t channel = 0; channel < channels; channel++, to += value)
            memcpy(to, from + (channel * pixels + pixel) * value, value);
}

/* Rows of the examples in `order`. What does not count, padding and examples of weight 0, becomes a copy of the first
 * example that does: its gradients are multiplied by 0, and 0 times what is computed is 0 only where that is finite. */
static void fill(const struct tacit_visit *visit, const uint32_t *order, uint32_t count)
{
    uint32_t first = 0;
    while (first < count && visit->weights[order[first]] == 0)
        first++;
    uint8_t *region = visit->memory[visit->kept ? TACIT_KEPT : TACIT_X];
    for (size_t i = 0; i < visit->field_count; i++) {
        const struct tacit_field *field = &visit->fields[i];
        const uint8_t *rows = visit->rows[i].bytes;
        for (uint32_t n = 0; n < visit->microbatch; n++) {
            uint8_t *to = region + field->offset + n * field->row;
            const bool counts = n < count && visit->weights[order[n]] > 0;
            if (first == count)
                memset(to, 0, field->row);
            else
                copy_row(field, to, rows + order[counts ? n : first] * field->row);
        }
    }
    float *weight = visit->memory[TACIT_WEIGHT];
    for (uint32_t n = 0; n < visit->microbatch; n++) {
        uint8_t *label = (uint8_t *)visit->memory[TACIT_Y] + visit->label.offset + n * visit->label.row;
        if (n < count)
            copy_row(&visit->label, label, (const uint8_t *)visit->labels.bytes + order[n] * visit->label.row);
        else
            memset(label, 0, visit->label.row);
        weight[n] = n < count ? visit->weights[order[n]] : 0;
    }
}

/* The tapes' memory was checked: playing them on it cannot fail. */
static int play_microbatch(const struct tacit_visit *visit, struct tacit_progress *progress)
{
    if (progress->steps >= visit->step_count || progress->taken >= visit->order_count)
        return TACIT_ORDER_WRONG;
    const uint32_t minibatch = visit->minibatches[progress->steps];
    if (progress->within >= minibatch || minibatch > visit->order_count - progress->taken)
        return TACIT_ORDER_WRONG;
    const uint32_t *order = visit->order + progress->taken;
    const bool first = progress->within == 0;
    if (first)
        progress->divisor = (float)summed_weight(visit, order, minibatch);
    const uint64_t left = minibatch - progress->within;
    const uint32_t count = left < visit->microbatch ? (uint32_t)left : visit->microbatch;
    order += progress->within;
    for (uint32_t i = 0; i < count; i++)
        if (order[i] >= visit->examples)
            return TACIT_ORDER_WRONG;

    fill(visit, order, count);
    *(float *)visit->memory[TACIT_DIVISOR] = progress->divisor;
    if (of_tapes(visit, TACIT_SEED) > 0) {
        const uint64_t seed = visit->seed + progress->microbatches;
        memcpy(visit->memory[TACIT_SEED], &seed, sizeof seed);
    }
    if (visit->prefix)
        (void)tacit_play(visit->prefix, visit->memory, visit->size, 1);
    (void)tacit_play(visit->train, visit->memory, visit->size, first);
    progress->loss = *(const float *)visit->memory[TACIT_LOSS];
    if (!__builtin_isfinite(progress->loss))
        return TACIT_LOSS_NOT_FINITE;
    progress->microbatches++;
    progress->within += count;
    if (progress->within == minibatch) {
        *(float *)visit->memory[TACIT_RATE] = visit->rates[progress->steps];
        (void)tacit_play(visit->apply, visit->memory, visit->size, 1);
        progress->taken += minibatch;
        progress->within = 0;
        progress->steps++;
    }
    return TACIT_PLAYED;
}

int tacit_visit(const struct tacit_visit *visit, struct tacit_progress *progress)
{
    int result = check_pieces(visit);
    if (result != TACIT_PLAYED)
        return result;
    if (progress->microbatches == 0) {
        if ((result = check_work(visit)) != TACIT_PLAYED)
            return result;
        *progress = (struct tacit_progress){0};
        load_snapshot(visit);
    }
    for (uint32_t played = 0; progress->steps < visit->step_count;) {
        if ((result = play_microbatch(visit, progress)) != TACIT_PLAYED)
            return result;
        const bool enough = ++played == visit->most && progress->steps < visit->step_count;
        if ((visit->after && visit->after(visit->context, progress) != 0) || enough)
            return TACIT_PAUSED;
    }
    return take_delta(visit);
}

const char *tacit_result_sentence(int result)
{
    switch (result) {
    case TACIT_PLAYED:
        return "it was played to its end";
    case TACIT_REGION_SMALL:
        return "a region is absent or smaller than it must be; nothing was played";
    case TACIT_REGION_ALIGNED:
        return "a region does not begin at a multiple of 64; nothing was played";
    case TACIT_REGION_SHARED:
        return "two regions overlap; nothing was played";
    case TACIT_PAUSED:
        return "the visit pauses, as asked; call again to go on";
    case TACIT_LOSS_NOT_FINITE:
        return "training diverged: its loss is not a finite number; there is no delta";
    case TACIT_DELTA_NOT_FINITE:
        return "training diverged: a trained value became infinite or NaN; there is no delta";
    case TACIT_TAPES_WRONG:
        return "a tape is missing or of another kind; a visit that is given kept rows plays no prefix";
    case TACIT_PLACES_WRONG:
        return "the trained tensors do not hold as many values as the Snapshot, or one has no place";
    case TACIT_FIELDS_WRONG:
        return "a field has no place, or fewer rows than there are examples";
    case TACIT_ORDER_WRONG:
        return "the order names an example that is not there, or the minibatches do not add up to it";
    case TACIT_WEIGHTS_WRONG:
        return "a weight is negative or not finite, or a minibatch weighs nothing";
    case TACIT_MICROBATCH_PARTIAL:
        return "this Plan trains on whole micro-batches only, of examples whose weight is above 0";
    default:
        return "no such result";
    }
}
