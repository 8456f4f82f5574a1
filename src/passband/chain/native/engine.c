/* Small convolutional networks in float32, whole, for a few or for many images at once.
 *
 * A map is planes of numbers with a border of zeros, one plane per channel. With many images a number
 * is WIDTH of them, one per image ("images"); with one image it is one ("plane"), and WIDTH
 * neighbours of a row of the plane, borders included, are computed at once. Either way a convolution
 * is one small kernel: sums of some outputs at some positions stay in registers while all taps are
 * gone through, each a shift of the input. program.py says what is computed, where it lies, and the
 * shifts; every operation below is one step of that program.
 */
#include <stddef.h>
#if defined(__SSE__)
#include <immintrin.h>
#endif

#include "core.h"

#define MOST_OUTPUTS 8
#define MOST_POSITIONS 8
#define MOST_TALL_ROWS 4
#if WIDTH == 16
#define MOST_SUMS 24 /* of 32 registers */
#define MOST_TALL_OUTPUTS 4
#else
#define MOST_SUMS 12 /* of 16 */
#define MOST_TALL_OUTPUTS 2
#endif

enum { CONVOLVE, POOL_AVERAGE, POOL_MAXIMUM, ADD, AFFINE, COPY, PHASES, LINEAR, INTERLEAVE };

/* One step. Places are of the first number inside the border, in numbers from the workspace's start;
 * strides are in numbers too. */
typedef struct {
    index_t kind;
    index_t from, other, to;
    index_t inputs, others, outputs; /* channels */
    index_t groups;                  /* of channels, each a convolution of its own */
    index_t rows, columns;           /* of the result */
    index_t from_plane, from_row, from_column;
    index_t other_plane;
    index_t to_plane, to_row, to_column;
    index_t taps, size; /* size: stride of an interleaving */
    index_t tall;       /* of a convolution: by kernels for several rows */
    const index_t *shifts;
    const float *weights; /* of a convolution, for each tile of outputs (taps, outputs of the tile) */
    const float *bias;    /* of an affine map the shift, and the scale in `weights` */
    const float *before;  /* (taps, scale and shift) of an affine map of what a convolution reads,
                             kept within `low_before` and `high_before`; NULL: none */
    const index_t *tiles; /* numbers of outputs computed together, that add up to a group's */
    const float *inside;  /* of a row the bits of each number that is none of a border; NULL: all */
    float low, high;      /* what results are kept within */
    float low_before, high_before;
} step;

typedef int32_t truths __attribute__((vector_size(4 * WIDTH)));

/* Where the comparison holds, one, elsewhere the other. With NaN none holds: NaN stays. */
INLINE vector chosen(truths holds, vector one, vector other) {
    return (vector)((holds & (truths)one) | (~holds & (truths)other));
}

/* The larger and the smaller of a limit and a value; NaN where the value is. */
#if defined(__AVX512F__)
#define AT_LEAST _mm512_max_ps
#define AT_MOST _mm512_min_ps
#elif defined(__AVX2__)
#define AT_LEAST _mm256_max_ps
#define AT_MOST _mm256_min_ps
#elif defined(__SSE__)
#define AT_LEAST _mm_max_ps
#define AT_MOST _mm_min_ps
#else
#define AT_LEAST(a, b) chosen((a) > (b), a, b)
#define AT_MOST(a, b) chosen((a) < (b), a, b)
#endif

INLINE vector within(vector value, float low, float high) {
    return AT_MOST((vector){0} + high, AT_LEAST((vector){0} + low, value));
}

INLINE float within_one(float value, float low, float high) {
    value = value < low ? low : value;
    return value > high ? high : value;
}

/* ---- convolution -------------------------------------------------------------------------------- */

/* What the sums begin with and are stored through, besides the taps: `added` is a map that is added to
 * the first `additions` outputs. */
typedef struct {
    const float *weights, *bias, *inside, *added;
    index_t additions;
} operands;

typedef void kernel(const step *s, const float *from, float *to, const operands *with);

/* Read once: compilers would read it again for each product, and reading takes longer than those. */
#if defined(__x86_64__)
#define KEEP(value) __asm__("" : "+v"(value))
#else
#define KEEP(value) (void)0
#endif

/* One tap: what it reads at some positions, for all sums. */
INLINE void add_tap(const int outputs, const int positions, const vector *x, const float *weights,
                    vector sum[MOST_OUTPUTS][MOST_POSITIONS]) {
#pragma GCC unroll 8
    for (int o = 0; o < outputs; o++)
#pragma GCC unroll 8
        for (int p = 0; p < positions; p++) sum[o][p] += weights[o] * x[p];
}

/* What becomes of the sums at some positions of a row. */
INLINE void finish(const int outputs, const int positions, const step *s, float *to,
                   const float *added, const operands *with,
                   vector sum[MOST_OUTPUTS][MOST_POSITIONS]) {
    const index_t plane = s->to_plane, next = s->to_column, other_plane = s->other_plane;
    const index_t additions = with->additions;
    const float *inside = with->inside;
    const float low = s->low, high = s->high;
#pragma GCC unroll 8
    for (int o = 0; o < outputs; o++)
        if (o < additions)
#pragma GCC unroll 8
            for (int p = 0; p < positions; p++)
                sum[o][p] += load(added + o * other_plane + p * next);
#pragma GCC unroll 8
    for (int p = 0; p < positions; p++) {
        const truths bits = inside ? (truths)load(inside + p * WIDTH) : ~(truths){0};
#pragma GCC unroll 8
        for (int o = 0; o < outputs; o++)
            store(to + o * plane + p * next,
                  (vector)(bits & (truths)within(sum[o][p], low, high)));
    }
}

INLINE void sums(const int outputs, const int positions, const step *s, const float *from,
                 float *to, const operands *with) {
    const float *weights = with->weights, *before = s->before;
    const index_t *shifts = s->shifts, *end = shifts + s->taps;
    const index_t column = s->from_column;
    vector sum[MOST_OUTPUTS][MOST_POSITIONS], x[MOST_POSITIONS];
#pragma GCC unroll 8
    for (int o = 0; o < outputs; o++)
#pragma GCC unroll 8
        for (int p = 0; p < positions; p++) sum[o][p] = (vector){0} + with->bias[o];
    if (before)
        for (; shifts < end; shifts++, weights += outputs, before += 2) {
#pragma GCC unroll 8
            for (int p = 0; p < positions; p++)
                x[p] = within(load(from + *shifts + p * column) * before[0] + before[1],
                              s->low_before, s->high_before);
            add_tap(outputs, positions, x, weights, sum);
        }
    else
        for (; shifts < end; shifts++, weights += outputs) {
#pragma GCC unroll 8
            for (int p = 0; p < positions; p++) x[p] = load(from + *shifts + p * column);
            add_tap(outputs, positions, x, weights, sum);
        }
    finish(outputs, positions, s, to, with->added, with, sum);
}

/* The same of kernels of three rows at several rows at once: what is read of a row is needed by up to
 * three of them, and with few outputs reading takes longer than multiplying. Each shift stands for the
 * three taps of a column, with weights (3, outputs). */
INLINE void tall_sums(const int outputs, const int rows, const int positions, const step *s,
                      const float *from, float *to, const operands *with) {
    const float *weights = with->weights, *added = with->added;
    const index_t *shifts = s->shifts, *end = shifts + s->taps / 3;
    const index_t column = s->from_column, row = s->from_row;
    vector sum[MOST_TALL_ROWS][MOST_OUTPUTS][MOST_POSITIONS], x[MOST_POSITIONS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int o = 0; o < outputs; o++)
#pragma GCC unroll 8
            for (int p = 0; p < positions; p++) sum[r][o][p] = (vector){0} + with->bias[o];
    for (; shifts < end; shifts++, weights += 3 * outputs) {
        const float *at = from + *shifts;
#pragma GCC unroll 8
        for (int r = 0; r < rows + 2; r++, at += row) {
#pragma GCC unroll 8
            for (int p = 0; p < positions; p++) {
                x[p] = load(at + p * column);
                KEEP(x[p]);
            }
#pragma GCC unroll 8
            for (int tap = 0; tap < 3; tap++)
                if (0 <= r - tap && r - tap < rows)
                    add_tap(outputs, positions, x, weights + tap * outputs, sum[r - tap]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++, to += s->to_row, added += s->to_row)
        finish(outputs, positions, s, to, added, with, sum[r]);
}

#define KERNEL(o, p)                                                                              \
    static void sums_##o##_##p(const step *s, const float *from, float *to, const operands *with) {      \
        sums(o, p, s, from, to, with);                                                            \
    }
#define KERNELS(o) KERNEL(o, 1) KERNEL(o, 2)
KERNELS(1) KERNELS(2) KERNELS(3) KERNELS(4) KERNELS(5) KERNELS(6) KERNELS(7) KERNELS(8)
KERNEL(1, 3) KERNEL(2, 3) KERNEL(3, 3) KERNEL(4, 3)
KERNEL(1, 4) KERNEL(2, 4) KERNEL(3, 4)
KERNEL(1, 5) KERNEL(2, 5) KERNEL(1, 6) KERNEL(2, 6) KERNEL(1, 7) KERNEL(1, 8)
#if MOST_SUMS >= 24
KERNEL(5, 3) KERNEL(6, 3) KERNEL(7, 3) KERNEL(8, 3)
KERNEL(4, 4) KERNEL(5, 4) KERNEL(6, 4)
KERNEL(3, 5) KERNEL(4, 5) KERNEL(3, 6) KERNEL(4, 6) KERNEL(2, 7) KERNEL(3, 7) KERNEL(2, 8)
KERNEL(3, 8)
#define LARGE(o, p) sums_##o##_##p
#else
#define LARGE(o, p) 0
#endif

#define BY_TWO(o) sums_##o##_1, sums_##o##_2
static kernel *const KERNEL_OF[MOST_OUTPUTS][MOST_POSITIONS] = {
    {BY_TWO(1), sums_1_3, sums_1_4, sums_1_5, sums_1_6, sums_1_7, sums_1_8},
    {BY_TWO(2), sums_2_3, sums_2_4, sums_2_5, sums_2_6, LARGE(2, 7), LARGE(2, 8)},
    {BY_TWO(3), sums_3_3, sums_3_4, LARGE(3, 5), LARGE(3, 6), LARGE(3, 7), LARGE(3, 8)},
    {BY_TWO(4), sums_4_3, LARGE(4, 4), LARGE(4, 5), LARGE(4, 6)},
    {BY_TWO(5), LARGE(5, 3), LARGE(5, 4)},
    {BY_TWO(6), LARGE(6, 3), LARGE(6, 4)},
    {BY_TWO(7), LARGE(7, 3)},
    {BY_TWO(8), LARGE(8, 3)},
};

#define TALL(o, r, p)                                                                             \
    static void tall_##o##_##r##_##p(const step *s, const float *from, float *to,                 \
                                     const operands *with) {                                      \
        tall_sums(o, r, p, s, from, to, with);                                                    \
    }
#define TALLS(o, r) TALL(o, r, 1) TALL(o, r, 2)
TALLS(1, 1) TALLS(1, 2) TALLS(1, 3) TALLS(1, 4) TALLS(2, 1) TALLS(2, 2)
#if MOST_SUMS >= 24
TALLS(2, 3) TALLS(2, 4) TALLS(3, 1) TALLS(3, 2) TALLS(3, 3) TALLS(4, 1) TALLS(4, 2)
#endif

#define BOTH(o, r) {tall_##o##_##r##_1, tall_##o##_##r##_2}
static kernel *const TALL_OF[MOST_TALL_OUTPUTS][MOST_TALL_ROWS][2] = {
    {BOTH(1, 1), BOTH(1, 2), BOTH(1, 3), BOTH(1, 4)},
#if MOST_SUMS >= 24
    {BOTH(2, 1), BOTH(2, 2), BOTH(2, 3), BOTH(2, 4)},
    {BOTH(3, 1), BOTH(3, 2), BOTH(3, 3)},
    {BOTH(4, 1), BOTH(4, 2)},
#else
    {BOTH(2, 1), BOTH(2, 2)},
#endif
};

/* As many as there are registers for, with the weights of a column of taps. */
INLINE index_t tall_rows(index_t outputs) {
    return MOST_SUMS >= 24 ? least(6 - outputs, MOST_TALL_ROWS) : outputs == 1 ? 4 : 2;
}

/* A tile of outputs in a row, or with a tall kernel in some rows. */
INLINE void convolve_tile(const step *s, float *work, index_t row, index_t rows, index_t channel,
                          index_t output, index_t outputs) {
    kernel *const *kernels = s->tall ? TALL_OF[outputs - 1][rows - 1] : KERNEL_OF[outputs - 1];
    const index_t most = s->tall ? 2 : least(MOST_SUMS / outputs, MOST_POSITIONS);
    const index_t calls = (s->columns + most - 1) / most, each = s->columns / calls;
    const float *from = work + s->from + channel * s->from_plane + row * s->from_row;
    const index_t start = row * s->to_row;
    float *to = work + s->to + output * s->to_plane + start;
    operands with = {s->weights + output * s->taps, s->bias + output, s->inside,
                     work + s->other + output * s->other_plane + start, s->others - output};
    for (index_t column = 0, larger = s->columns % calls; column < s->columns; larger--) {
        const index_t positions = each + (larger > 0); /* of even size */
        kernels[positions - 1](s, from, to, &with);
        column += positions;
        from += positions * s->from_column;
        to += positions * s->to_column;
        with.added += positions * s->to_column;
        if (with.inside) with.inside += positions * WIDTH;
    }
}

static void convolve(const step *s, float *work) {
    const index_t at_once = s->tall ? tall_rows(s->tiles[0]) : 1;
    const index_t inputs = s->inputs / s->groups, outputs = s->outputs / s->groups;
    for (index_t row = 0, rows; row < s->rows; row += rows) {
        rows = least(at_once, s->rows - row);
        for (index_t group = 0; group < s->groups; group++) {
            index_t done = 0;
            for (const index_t *tile = s->tiles; done < outputs; done += *tile++)
                convolve_tile(s, work, row, rows, group * inputs, group * outputs + done, *tile);
        }
    }
}

/* ---- everything else ---------------------------------------------------------------------------- */

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
#if WIDTH == 16
    const truths places = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif WIDTH == 8
    const truths places = {0, 1, 2, 3, 4, 5, 6, 7};
#else
    const truths places = {0, 1, 2, 3};
#endif
    return (vector)((places < (truths){0} + (int32_t)count) & (truths)value);
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
            if (s->from_column == 2) pool_halved(maximum, s, from, to, share);
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

/* Every second row and column, four ways: a convolution of stride 2 is one of stride 1 on those. What
 * is stored beyond a row's end is of the next one, or of none. */
static void phases(const step *s, float *work) {
    FOR_EACH_ROW(4 * s->inputs, {
        const index_t phase = c % 4;
        const float *a = work + s->from + c / 4 * s->from_plane +
                         (2 * row + phase / 2) * s->from_row + phase % 2;
        for (index_t i = 0; i < s->columns; i += WIDTH) store(to + i, halved(a + 2 * i));
    })
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

static void run_steps(const step *steps, index_t count, float *work) {
    for (const step *s = steps; s < steps + count; s++) switch (s->kind) {
            case CONVOLVE: convolve(s, work); break;
            case POOL_AVERAGE: pool(s, work, 0); break;
            case POOL_MAXIMUM: pool(s, work, 1); break;
            case ADD: add(s, work); break;
            case AFFINE: affine(s, work); break;
            case COPY: copy(s, work); break;
            case PHASES: phases(s, work); break;
            case LINEAR: linear(s, work); break;
            case INTERLEAVE: interleave(s, work); break;
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
    index_t lanes; /* images at once */
    index_t size;  /* of a worker's workspace */
} network;

typedef struct {
    const network *n;
    const float *images;
    float *results;
    index_t batch;
    float *work; /* of all workers */
    index_t next;
} run;

static void read_images(const run *r, index_t first, index_t count, float *work) {
    const end *in = &r->n->input;
    const index_t image = in->channels * in->rows * in->columns;
    const float *images = r->images + first * image;
    for (index_t c = 0; c < in->channels; c++)
        for (index_t row = 0; row < in->rows; row++) {
            const float *from = images + (c * in->rows + row) * in->columns;
            float *to = work + in->from + c * in->plane + row * in->row;
            if (r->n->lanes == 1) {
                memcpy(to, from, (size_t)in->columns * sizeof(float));
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
        run_steps(n->steps, n->count, work);
        write_results(r, first, count, work);
    }
}

EXPORTED void passband_run_chain(const network *n, const float *images, float *results,
                                 index_t batch, float *work, index_t workers) {
    run r = {n, images, results, batch, work, 0};
    in_parallel(work_on_blocks, &r, workers, workers);
}

EXPORTED index_t passband_chain_step_bytes(void) { return sizeof(step); }
EXPORTED index_t passband_chain_width(void) { return WIDTH; }
EXPORTED index_t passband_chain_sums(void) { return MOST_SUMS; }
EXPORTED index_t passband_chain_tall_outputs(void) { return MOST_TALL_OUTPUTS; }
