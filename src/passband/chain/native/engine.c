/* Small convolutional networks in float32, whole, for a few or for many images at once.
 *
 * A map is planes of numbers with a border of zeros, one plane per channel. With many images a number
 * is WIDTH of them, one per image ("images"); with one image it is one ("plane"), and WIDTH
 * neighbours of a row of the plane, borders included, are computed at once. Small planes have no
 * border, and convolutions read copies of them that SHIFT makes. Either way a convolution is one small
 * kernel: sums of some outputs at some positions stay in registers while all taps are gone through,
 * each a shift of the input. program.py says what is computed, where it lies, and the shifts; every
 * operation below is one step of that program.
 */
#include "step.h"

/* ---- all steps but convolutions ----------------------------------------------------------------- */

/* BODY for each number of a row of the result: `i` is its place in the row, a whole vector where rows
 * are of images, one number where they are of a plane. */
#define FOR_EACH_ROW(planes, ...)                                                                 \
    for (index_t c = 0; c < planes; c++)                                                          \
        for (index_t row = 0; row < s->rows; row++) {                                             \
            float *to = work + s->to + c * s->to_plane + row * s->to_row;                         \
            __VA_ARGS__                                                                           \
        }

/* NaN where one of both is. */
INLINE vector larger(vector one, vector other) {
    return chosen((one >= other) | (one != one), one, other);
}

/* Every second number of two registers. */
INLINE vector halved(const float *from) {
    const vector a = load(from), b = load(from + WIDTH);
#if WIDTH == 16
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
#elif WIDTH == 8
    return SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
#else
    return SHUFFLE(a, b, 0, 2, 4, 6);
#endif
}

/* The first numbers of a register, then zeros. */
INLINE vector first_of(vector value, index_t count) {
    return (vector)((PLACES < (truths){0} + (int32_t)count) & (truths)value);
}

/* A row of pooled numbers of one image, whose inputs begin at every second number. The zeros that are
 * stored beyond its end are of a border, or of the rows that come next. */
INLINE void pool_halved(const int maximum, const step *s, const float *from, float *to,
                        float share) {
    for (index_t i = 0; i < s->columns; i += WIDTH) {
        vector sum = halved(from + 2 * i);
        for (index_t t = 1; t < s->taps; t++) {
            const vector next = halved(from + 2 * i + s->shifts[t]);
            sum = maximum ? larger(sum, next) : sum + next;
        }
        sum = within(sum * share, s->low, s->high);
        store(to + i, first_of(sum, s->columns - i));
    }
}

/* The average of numbers that lie together. */
INLINE float average(const float *from, index_t count) {
    vector sum = {0};
    for (index_t i = 0; i < count; i += WIDTH) sum += first_of(load(from + i), count - i);
#if WIDTH == 16
    sum += FROM(sum, sum, 8);
#endif
#if WIDTH >= 8
    sum += FROM(sum, sum, 4);
#endif
    sum += FROM(sum, sum, 2);
    sum += FROM(sum, sum, 1);
    return sum[0] / (float)count;
}

/* Another row of one image. */
INLINE void pool_row(const int maximum, const step *s, const float *from, float *to, float share) {
    for (index_t i = 0; i < s->columns; i++, from += s->from_column) {
        float sum = from[0];
        for (index_t t = 1; t < s->taps; t++) {
            const float next = from[s->shifts[t]];
            sum = !maximum ? sum + next : sum >= next || sum != sum ? sum : next;
        }
        to[i] = within_one(sum * share, s->low, s->high);
    }
}

static void pool(const step *s, float *work, const int maximum) {
    const float share = maximum ? 1.0f : 1.0f / (float)s->taps;
    FOR_EACH_ROW(s->outputs, {
        const float *from = work + s->from + c * s->from_plane + row * s->from_row;
        if (s->to_column == 1) {
            if (!maximum && s->columns == 1 && s->shifts[s->taps - 1] == s->taps - 1)
                to[0] = within_one(average(from, s->taps), s->low, s->high);
            else if (s->from_column == 2) pool_halved(maximum, s, from, to, share);
            else pool_row(maximum, s, from, to, share);
            continue;
        }
        for (index_t column = 0; column < s->columns; column++, from += s->from_column) {
            vector sum = load(from);
            for (index_t t = 1; t < s->taps; t++) {
                vector next = load(from + s->shifts[t]);
                sum = maximum ? larger(sum, next) : sum + next;
            }
            store(to + column * s->to_column, within(sum * share, s->low, s->high));
        }
    })
}

/* The numbers of a row of the result: positions times images. */
INLINE index_t row_length(const step *s) { return s->columns * s->to_column; }

#define WITHIN_vector within
#define WITHIN_float within_one
#define SUM(type, get, put)                                                                       \
    type x = {0};                                                                                 \
    if (has_a) x = x + get(a + i);                                                                \
    if (has_b) x = x + get(b + i);                                                                \
    put(to + i, WITHIN_##type(x, s->low, s->high));
#define SCALED(type, get, put)                                                                    \
    type x = get(a + i);                                                                          \
    put(to + i, WITHIN_##type(x * scale + shift, s->low, s->high));

static void add(const step *s, float *work) {
    FOR_EACH_ROW(s->outputs, {
        const float *a = work + s->from + c * s->from_plane + row * s->from_row;
        const float *b = work + s->other + c * s->other_plane + row * s->from_row;
        const int has_a = c < s->inputs, has_b = c < s->others;
        const index_t length = row_length(s);
        FOR_EACH(i, length, SUM)
    })
}

static void affine(const step *s, float *work) {
    FOR_EACH_ROW(s->outputs, {
        const float *a = work + s->from + c * s->from_plane + row * s->from_row;
        const float scale = s->weights[c], shift = s->bias[c];
        for (index_t v = 0; s->inside && v < s->columns * WIDTH; v += WIDTH) {
            const vector result = within(load(a + v) * scale + shift, s->low, s->high);
            store(to + v, (vector)((truths)load(s->inside + v) & (truths)result));
        }
        if (s->inside) continue;
        const index_t length = row_length(s);
        FOR_EACH(i, length, SCALED)
    })
}

static void copy(const step *s, float *work) {
    FOR_EACH_ROW(s->outputs, {
        const float *a = work + s->from + c * s->from_plane + row * s->from_row;
        if (c < s->inputs) memcpy(to, a, (size_t)row_length(s) * sizeof(float));
        else memset(to, 0, (size_t)row_length(s) * sizeof(float));
    })
}

/* Copies of maps of one image, one for each column of a kernel, with what that column reads where its
 * result will lie: shifted, or of stride 2 every second number. So a convolution needs no border
 * between rows, and reads what is read at once from where it lies together. `inside` tells for each
 * copy what is of the map and not beyond its edges. What is stored beyond the end of a row is zero, of
 * the next row or of none. */
static void shift(const step *s, float *work) {
    const index_t length = s->columns * WIDTH;
    for (index_t c = 0; c < s->inputs; c++)
        for (index_t t = 0; t < s->taps; t++) {
            const float *from = work + s->from + c * s->from_plane + s->shifts[t];
            const float *inside = s->inside + t * length;
            float *to = work + s->to + c * s->to_plane + t * s->other_plane;
            for (index_t row = 0; row < s->rows; row++, from += s->from_row, to += s->to_row)
                for (index_t i = 0; i < length; i += WIDTH) {
                    const vector value = s->from_column == 2 ? halved(from + 2 * i) : load(from + i);
                    store(to + i, (vector)((truths)load(inside + i) & (truths)value));
                }
        }
}

/* The results of a transposed convolution of stride `size`, one map for each place in a square of that
 * side, as one map. */
static void interleave(const step *s, float *work) {
    FOR_EACH_ROW(s->outputs, {
        const index_t down = row % s->size, next = s->outputs * s->from_plane;
        const float *restrict a = work + s->from + (down * s->size * s->outputs + c) * s->from_plane +
                                  row / s->size * s->from_row;
        float *restrict result = to;
        if (s->size == 2 && s->columns % 2 == 0) {
            const float *restrict b = a + next;
            for (index_t i = 0; i < s->columns / 2; i++) {
                result[2 * i] = a[i];
                result[2 * i + 1] = b[i];
            }
            continue;
        }
        for (index_t right = 0; right < s->size; right++)
            for (index_t column = right; column < s->columns; column += s->size)
                result[column] = a[right * next + column / s->size];
    })
}

/* A linear layer for one image: `outputs` is a multiple of WIDTH, weights are (inputs, outputs). */
static void linear(const step *s, float *work) {
    for (index_t o = 0; o < s->outputs; o += WIDTH) {
        vector sum = load(s->bias + o);
        for (index_t t = 0; t < s->taps; t++)
            sum += work[s->from + s->shifts[t]] * load(s->weights + t * s->outputs + o);
        store(work + s->to + o, within(sum, s->low, s->high));
    }
}

/* ---- whole networks ----------------------------------------------------------------------------- */

/* Where input and output of the network lie in the workspace. */
typedef struct {
    index_t from, channels, rows, columns, plane, row;
} end;

typedef struct {
    const step *steps;
    index_t count;
    end input, output;
    index_t lanes;  /* images at once */
    index_t size;   /* of a worker's workspace */
    index_t direct; /* the last step, a convolution, writes the results and not the workspace */
} network;

static void run_steps(const network *n, float *work, float *results) {
    const step *last = n->steps + n->count - 1;
    for (const step *s = n->steps; s <= last; s++) switch (s->kind) {
            case CONVOLVE: convolve(s, work, n->direct && s == last ? results : work); break;
            case POOL_AVERAGE: pool(s, work, 0); break;
            case POOL_MAXIMUM: pool(s, work, 1); break;
            case ADD: add(s, work); break;
            case AFFINE: affine(s, work); break;
            case COPY: copy(s, work); break;
            case SHIFT: shift(s, work); break;
            case LINEAR: linear(s, work); break;
            case INTERLEAVE: interleave(s, work); break;
            case DEPTHWISE: depthwise(s, work); break;
        }
}

typedef struct {
    const network *n;
    const float *images;
    float *results;
    index_t batch;
    float *work; /* of all workers */
    index_t next;
} run;

#define COPIED(type, get, put) put(to + i, get(from + i));

static void read_images(const run *r, index_t first, index_t count, float *work) {
    const end *in = &r->n->input;
    const index_t image = in->channels * in->rows * in->columns;
    const float *images = r->images + first * image;
    for (index_t c = 0; c < in->channels; c++)
        for (index_t row = 0; row < in->rows; row++) {
            const float *from = images + (c * in->rows + row) * in->columns;
            float *to = work + in->from + c * in->plane + row * in->row;
            if (r->n->lanes == 1) {
                FOR_EACH(i, in->columns, COPIED)
                continue;
            }
            index_t column = 0;
            for (; count == WIDTH && column + WIDTH <= in->columns; column += WIDTH) {
                const float *rows[WIDTH];
                float square[WIDTH * LANES];
                for (int i = 0; i < WIDTH; i++) rows[i] = from + i * image + column;
                transpose_in(rows, WIDTH, WIDTH, 0, square);
                for (int i = 0; i < WIDTH; i++)
                    store(to + (column + i) * WIDTH, load(square + i * LANES));
            }
            for (; column < in->columns; column++)
                for (index_t i = 0; i < count; i++)
                    to[column * WIDTH + i] = from[i * image + column];
        }
}

static void write_results(const run *r, index_t first, index_t count, const float *work) {
    const end *out = &r->n->output;
    const index_t image = out->channels * out->rows * out->columns;
    for (index_t c = 0; c < out->channels; c++)
        for (index_t row = 0; row < out->rows; row++) {
            const float *from = work + out->from + c * out->plane + row * out->row;
            float *to = r->results + first * image + (c * out->rows + row) * out->columns;
            if (r->n->lanes == 1) memcpy(to, from, (size_t)out->columns * sizeof(float));
            else
                for (index_t column = 0; column < out->columns; column++)
                    for (index_t i = 0; i < count; i++)
                        to[i * image + column] = from[column * WIDTH + i];
        }
}

static void work_on_blocks(const void *arguments, index_t worker) {
    run *r = (run *)arguments;
    const network *n = r->n;
    float *work = r->work + worker * n->size;
    for (;;) {
        index_t block = __atomic_fetch_add(&r->next, 1, __ATOMIC_RELAXED), first = block * n->lanes;
        if (first >= r->batch) return;
        index_t count = least(n->lanes, r->batch - first);
        read_images(r, first, count, work);
        const end *out = &n->output;
        run_steps(n, work, r->results + first * out->channels * out->rows * out->columns);
        if (!n->direct) write_results(r, first, count, work);
    }
}

EXPORTED void passband_run_chain(const network *n, const float *images, float *results,
                                 index_t batch, float *work, index_t workers) {
    run r = {n, images, results, batch, work, 0};
    in_parallel(work_on_blocks, &r, workers, workers);
}

EXPORTED index_t passband_chain_step_bytes(void) { return sizeof(step); }
EXPORTED index_t passband_chain_width(void) { return WIDTH; }
