/* Batch norm and activation of a block: their backward pass, and the activation after an addition.
 * Maps are (outer, channels, inner) numbers one after the other: images, channels and points, or
 * where channels are innermost, points of all images and channels. ../../conv_block/README.md. */
#include "core.h"

#define ROWS_AT_A_TIME 128 /* that are added in float32 before they are added to a double */
#define NUMBERS_OF_TASK 4096 /* of an image, for what goes number by number; whole bytes of bits */

typedef int32_t selection __attribute__((vector_size(4 * WIDTH)));

/* A batch norm v = scale y + shift that has been computed, and the activation after it, whose
 * derivative is 1 between low and high, and slope elsewhere. Without a shift there is none. */
typedef struct {
    const float *mean, *scale, *shift; /* of each channel */
    float low, high, slope;            /* high is not a number where there is no upper kink */
} norm;

/* Some numbers of a row; those that are not there are zero. */
INLINE vector load_some(const float *from, index_t count) {
    vector value = {0};
    if (count >= WIDTH) return load(from);
    memcpy(&value, from, (size_t)count * sizeof(float));
    return value;
}

INLINE void store_some(float *to, vector value, index_t count) {
    if (count >= WIDTH) store(to, value);
    else memcpy(to, &value, (size_t)count * sizeof(float));
}

INLINE vector chosen(selection which, vector yes, vector no) {
    return (vector)((which & (selection)yes) | (~which & (selection)no));
}

/* The gradient of v from that of the activation. The same v as in the forward pass, to the bit:
 * one rounding where torch has one, which Python makes sure of. */
INLINE vector through_activation(const norm *n, vector y, vector grad, vector scale, vector shift) {
    const vector v = scale * y + shift;
    const selection outside = (selection)(v <= n->low) | (selection)(v >= n->high);
    vector flat = {0};
    if (n->slope != 0) flat = grad * n->slope;
    return chosen(outside, flat, grad);
}

/* ---- sums over the batch ------------------------------------------------------------------------ */

typedef struct {
    const float *maps, *grad;
    index_t outer, channels, inner, rows; /* of the outer, `rows` are of one task */
    const norm *norm;
    double *sums; /* (tasks, 2, channels): grad (y - mean), grad */
} sums_arguments;

static void add_to(double *sums, vector values, index_t count) {
    for (index_t i = 0; i < count; i++) sums[i] += values[i];
}

/* Rows of channels: a few registers of neighbouring channels, down the rows. */
INLINE void sum_rows(const sums_arguments *s, const int vectors, index_t channel, index_t count,
                     index_t first, index_t rows, double *sums) {
    const norm *n = s->norm;
    vector mean[TILE_VECTORS], scale[TILE_VECTORS], shift[TILE_VECTORS];
    vector products[TILE_VECTORS], totals[TILE_VECTORS];
    for (int j = 0; j < vectors; j++) {
        const index_t at = channel + j * WIDTH;
        mean[j] = load_some(n->mean + at, count);
        scale[j] = load_some(n->scale + at, count);
        shift[j] = n->shift ? load_some(n->shift + at, count) : (vector){0};
        products[j] = totals[j] = (vector){0};
    }
    for (index_t r = first; r < first + rows; r++) {
        for (int j = 0; j < vectors; j++) {
            const index_t at = r * s->channels + channel + j * WIDTH;
            const vector y = load_some(s->maps + at, count);
            vector grad = load_some(s->grad + at, count);
            if (n->shift) grad = through_activation(n, y, grad, scale[j], shift[j]);
            products[j] += grad * (y - mean[j]);
            totals[j] += grad;
        }
    }
    for (int j = 0; j < vectors; j++) {
        add_to(sums + channel + j * WIDTH, products[j], least(count, WIDTH));
        add_to(sums + s->channels + channel + j * WIDTH, totals[j], least(count, WIDTH));
    }
}

static void sum_plane(const sums_arguments *s, index_t plane, double *sums) {
    const norm *n = s->norm;
    const index_t channel = plane % s->channels;
    const float *maps = s->maps + plane * s->inner, *grads = s->grad + plane * s->inner;
    const vector zero = {0}, mean = zero + n->mean[channel], scale = zero + n->scale[channel];
    const vector shift = n->shift ? zero + n->shift[channel] : zero;
    double product = 0, total = 0;
    for (index_t start = 0; start < s->inner; start += ROWS_AT_A_TIME * WIDTH) {
        const index_t end = least(start + ROWS_AT_A_TIME * WIDTH, s->inner);
        vector products = {0}, totals = {0};
        for (index_t i = start; i < end; i += WIDTH) {
            vector y = load_some(maps + i, end - i), grad = load_some(grads + i, end - i);
            if (n->shift) grad = through_activation(n, y, grad, scale, shift);
            products += grad * (y - mean);
            totals += grad;
        }
        for (index_t i = 0; i < WIDTH; i++) {
            product += products[i];
            total += totals[i];
        }
    }
    sums[channel] += product;
    sums[s->channels + channel] += total;
}

static void sums_task(const void *pointer, index_t task) {
    const sums_arguments *s = pointer;
    double *sums = s->sums + task * 2 * s->channels;
    const index_t end = least((task + 1) * s->rows, s->outer);
    memset(sums, 0, (size_t)(2 * s->channels) * sizeof(double));
    if (s->inner > 1) {
        for (index_t p = task * s->rows * s->channels; p < end * s->channels; p++)
            sum_plane(s, p, sums);
        return;
    }
    for (index_t r = task * s->rows; r < end; r += ROWS_AT_A_TIME) {
        const index_t rows = least(ROWS_AT_A_TIME, end - r);
        index_t c = 0;
        for (; c + TILE_VECTORS * WIDTH <= s->channels; c += TILE_VECTORS * WIDTH)
            sum_rows(s, TILE_VECTORS, c, WIDTH, r, rows, sums);
        for (; c < s->channels; c += WIDTH)
            sum_rows(s, 1, c, least(s->channels - c, WIDTH), r, rows, sums);
    }
}

/* What the gradients of scale and shift are made of; `grad` is that of the activation's output. */
EXPORTED void passband_norm_sums(const float *maps, const float *grad, index_t outer,
                                 index_t channels, index_t inner, index_t rows, const norm *n,
                                 double *sums, index_t threads) {
    sums_arguments s = {maps, grad, outer, channels, inner, rows, n, sums};
    in_parallel(sums_task, &s, (outer + rows - 1) / rows, threads);
}

/* ---- the gradient of the maps ------------------------------------------------------------------- */

typedef struct {
    const float *maps, *grad;
    float *to;
    index_t outer, channels, inner, rows;
    const norm *norm;
    const float *slope, *offset; /* of each channel; NULL where the statistics are constants */
} norm_arguments;

INLINE vector through_norm(const norm_arguments *a, vector y, vector grad, vector mean,
                           vector scale, vector shift, vector slope, vector offset) {
    if (a->norm->shift) grad = through_activation(a->norm, y, grad, scale, shift);
    return a->slope ? scale * grad + (slope * (y - mean) + offset) : scale * grad;
}

INLINE void norm_rows(const norm_arguments *a, index_t channel, index_t count, index_t first,
                      index_t rows) {
    const norm *n = a->norm;
    const vector mean = load_some(n->mean + channel, count), zero = {0};
    const vector scale = load_some(n->scale + channel, count);
    const vector shift = n->shift ? load_some(n->shift + channel, count) : zero;
    const vector slope = a->slope ? load_some(a->slope + channel, count) : zero;
    const vector offset = a->slope ? load_some(a->offset + channel, count) : zero;
    for (index_t r = first; r < first + rows; r++) {
        const index_t at = r * a->channels + channel;
        const vector y = load_some(a->maps + at, count), grad = load_some(a->grad + at, count);
        store_some(a->to + at, through_norm(a, y, grad, mean, scale, shift, slope, offset), count);
    }
}

static void norm_plane(const norm_arguments *a, index_t plane) {
    const norm *n = a->norm;
    const index_t channel = plane % a->channels, start = plane * a->inner;
    const vector zero = {0}, mean = zero + n->mean[channel], scale = zero + n->scale[channel];
    const vector shift = n->shift ? zero + n->shift[channel] : zero;
    const vector slope = a->slope ? zero + a->slope[channel] : zero;
    const vector offset = a->slope ? zero + a->offset[channel] : zero;
    for (index_t i = 0; i < a->inner; i += WIDTH) {
        const index_t count = a->inner - i, at = start + i;
        const vector y = load_some(a->maps + at, count), grad = load_some(a->grad + at, count);
        store_some(a->to + at, through_norm(a, y, grad, mean, scale, shift, slope, offset), count);
    }
}

static void norm_task(const void *pointer, index_t task) {
    const norm_arguments *a = pointer;
    const index_t end = least((task + 1) * a->rows, a->outer);
    if (a->inner > 1) {
        for (index_t p = task * a->rows * a->channels; p < end * a->channels; p++)
            norm_plane(a, p);
        return;
    }
    for (index_t r = task * a->rows; r < end; r += ROWS_AT_A_TIME) {
        const index_t rows = least(ROWS_AT_A_TIME, end - r);
        index_t c = 0;
        for (; c + WIDTH <= a->channels; c += WIDTH) norm_rows(a, c, WIDTH, r, rows);
        if (c < a->channels) norm_rows(a, c, a->channels - c, r, rows);
    }
}

/* scale grad + slope (y - mean) + offset, in the place of the maps or of the gradient. */
EXPORTED void passband_norm_backward(const float *maps, const float *grad, float *to,
                                     index_t outer, index_t channels, index_t inner, index_t rows,
                                     const norm *n, const float *slope, const float *offset,
                                     index_t threads) {
    norm_arguments a = {maps, grad, to, outer, channels, inner, rows, n, slope, offset};
    in_parallel(norm_task, &a, (outer + rows - 1) / rows, threads);
}

/* ---- bits: on which side of the kink -------------------------------------------------------------- */

typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t eight_integers __attribute__((vector_size(32)));
typedef int64_t four_integers __attribute__((vector_size(32)));

static const eight_integers bit_of = {128, 64, 32, 16, 8, 4, 2, 1};

typedef struct {
    const float *from; /* the gradient, or what is added; may be NULL then */
    float *to;
    uint8_t *bits; /* of each image ceil(numbers / 8) bytes */
    index_t numbers, tasks;
    float high, slope;
} bits_arguments;

INLINE eight chosen_of_eight(eight_integers which, eight yes, eight no) {
    return (eight)((which & (eight_integers)yes) | (~which & (eight_integers)no));
}

/* Call BODY(i, count, byte) for each eight numbers of a task. */
INLINE void each_eight(const bits_arguments *b, index_t task,
                       void (*body)(const bits_arguments *, index_t, index_t, uint8_t *)) {
    const index_t image = task / b->tasks, start = task % b->tasks * NUMBERS_OF_TASK;
    const index_t end = least(start + NUMBERS_OF_TASK, b->numbers);
    uint8_t *bits = b->bits + image * ((b->numbers + 7) / 8);
    index_t i = start;
    for (; i + 8 <= end; i += 8) body(b, image * b->numbers + i, 8, bits + i / 8);
    if (i < end) body(b, image * b->numbers + i, end - i, bits + i / 8);
}

INLINE eight eight_from(const float *from, index_t count) {
    eight value = {0};
    if (count == 8) return *(const eight *)from;
    memcpy(&value, from, (size_t)count * sizeof(float));
    return value;
}

INLINE void eight_to(float *to, eight value, index_t count) {
    if (count == 8) *(eight *)to = value;
    else memcpy(to, &value, (size_t)count * sizeof(float));
}

INLINE void mask_eight(const bits_arguments *b, index_t at, index_t count, uint8_t *byte) {
    const eight grad = eight_from(b->from + at, count);
    const eight_integers inside = (((eight_integers){0} + *byte) & bit_of) != 0;
    eight flat = {0};
    if (b->slope != 0) flat = grad * b->slope;
    eight_to(b->to + at, chosen_of_eight(inside, grad, flat), count);
}

INLINE void activate_eight(const bits_arguments *b, index_t at, index_t count, uint8_t *byte) {
    eight v = eight_from(b->to + at, count);
    if (b->from) v += eight_from(b->from + at, count);
    const eight zero = {0}, high = zero + b->high;
    const eight_integers inside = (eight_integers)(v > zero) & ~(eight_integers)(v >= high);
    const four_integers set = (four_integers)(inside & bit_of);
    const int64_t either = set[0] | set[1] | set[2] | set[3];
    *byte = (uint8_t)(either | either >> 32);
    eight flat = {0};
    if (b->slope != 0) flat = v * b->slope;
    v = chosen_of_eight((eight_integers)(v <= zero), flat, v);
    eight_to(b->to + at, chosen_of_eight((eight_integers)(v >= high), high, v), count);
}

static void mask_task(const void *pointer, index_t task) { each_eight(pointer, task, mask_eight); }

static void activate_task(const void *pointer, index_t task) {
    each_eight(pointer, task, activate_eight);
}

/* The gradient where its bit is set, and elsewhere times slope. */
EXPORTED void passband_mask(const float *grad, uint8_t *bits, float *to, index_t images,
                            index_t numbers, float slope, index_t threads) {
    const index_t tasks = (numbers + NUMBERS_OF_TASK - 1) / NUMBERS_OF_TASK;
    bits_arguments b = {grad, to, bits, numbers, tasks, 0, slope};
    in_parallel(mask_task, &b, images * tasks, threads);
}

/* maps = activation(maps + added), and the bits of its derivative. */
EXPORTED void passband_activate(float *maps, const float *added, uint8_t *bits, index_t images,
                                index_t numbers, float high, float slope, index_t threads) {
    const index_t tasks = (numbers + NUMBERS_OF_TASK - 1) / NUMBERS_OF_TASK;
    bits_arguments b = {added, maps, bits, numbers, tasks, high, slope};
    in_parallel(activate_task, &b, images * tasks, threads);
}
