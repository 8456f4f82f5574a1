/* Convolutions: sums of some outputs at some positions stay in registers while all taps are gone
 * through, each a shift of the input. There is a kernel for each number of outputs and positions. */
#include "step.h"

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

/* What becomes of the sums at some positions of a row. With few taps this takes as long as they do, so
 * nothing is done that changes nothing. */
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
    if (low > -INFINITY)
#pragma GCC unroll 8
        for (int o = 0; o < outputs; o++)
#pragma GCC unroll 8
            for (int p = 0; p < positions; p++)
                sum[o][p] = AT_LEAST((vector){0} + low, sum[o][p]);
    if (high < INFINITY)
#pragma GCC unroll 8
        for (int o = 0; o < outputs; o++)
#pragma GCC unroll 8
            for (int p = 0; p < positions; p++)
                sum[o][p] = AT_MOST((vector){0} + high, sum[o][p]);
    if (inside)
#pragma GCC unroll 8
        for (int p = 0; p < positions; p++) {
            const truths bits = (truths)load(inside + p * WIDTH);
#pragma GCC unroll 8
            for (int o = 0; o < outputs; o++) sum[o][p] = (vector)(bits & (truths)sum[o][p]);
        }
#pragma GCC unroll 8
    for (int o = 0; o < outputs; o++)
#pragma GCC unroll 8
        for (int p = 0; p < positions; p++) store(to + o * plane + p * next, sum[o][p]);
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

/* The same of groups of one output, all of them by one call: with few taps a call takes longer. */
INLINE void separate_sums(const int positions, const step *s, const float *from, float *to,
                          const operands *with) {
    const index_t next = s->inputs / s->groups * s->from_plane;
    operands own = *with;
    for (index_t c = 0; c < s->outputs; c++, from += next, to += s->to_plane) {
        sums(1, positions, s, from, to, &own);
        own.weights += s->taps;
        own.bias++;
        own.added += s->other_plane;
        own.additions--;
    }
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

#define SEPARATE(p)                                                                               \
    static void separate_##p(const step *s, const float *from, float *to, const operands *with) { \
        separate_sums(p, s, from, to, with);                                                      \
    }
SEPARATE(1) SEPARATE(2) SEPARATE(3) SEPARATE(4)
SEPARATE(5) SEPARATE(6) SEPARATE(7) SEPARATE(8)

static kernel *const SEPARATE_OF[MOST_POSITIONS] = {
    separate_1, separate_2, separate_3, separate_4, separate_5, separate_6, separate_7, separate_8,
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

/* How a row is shared out: so many calls, of which the first `larger` have a position more. It is kept
 * from tile to tile, as dividing takes longer than some kernels do. */
typedef struct {
    index_t outputs, calls, each, larger;
} shares;

INLINE shares shared_out(const step *s, index_t outputs) {
    const index_t most = s->tall ? 2 : least(MOST_SUMS / outputs, MOST_POSITIONS);
    const index_t calls = (s->columns + most - 1) / most, each = s->columns / calls;
    return (shares){outputs, calls, each, s->columns - calls * each};
}

/* Some outputs in a row, or with tall kernels in some rows. */
INLINE void convolve_row(const step *s, const float *work, float *results, kernel *const *kernels,
                         shares share, index_t row, index_t channel, index_t output) {
    const float *from = work + s->from + channel * s->from_plane + row * s->from_row;
    const index_t start = row * s->to_row;
    float *to = results + s->to + output * s->to_plane + start;
    operands with = {s->weights + output * s->taps, s->bias + output, s->inside,
                     work + s->other + output * s->other_plane + start, s->others - output};
    for (index_t call = 0; call < share.calls; call++) {
        const index_t positions = share.each + (call < share.larger);
        kernels[positions - 1](s, from, to, &with);
        from += positions * s->from_column;
        to += positions * s->to_column;
        with.added += positions * s->to_column;
        if (with.inside) with.inside += positions * WIDTH;
    }
}

void convolve(const step *s, const float *work, float *results) {
    const index_t at_once = s->tall ? tall_rows(s->tiles[0]) : 1;
    const index_t inputs = s->inputs / s->groups, outputs = s->outputs / s->groups;
    shares share = shared_out(s, s->tiles[0]);
    if (outputs == 1 && !s->tall && s->groups > 1) {
        for (index_t row = 0; row < s->rows; row++)
            convolve_row(s, work, results, SEPARATE_OF, share, row, 0, 0);
        return;
    }
    for (index_t row = 0, rows; row < s->rows; row += rows) {
        rows = least(at_once, s->rows - row);
        for (index_t group = 0; group < s->groups; group++) {
            index_t done = 0;
            for (const index_t *tile = s->tiles; done < outputs; done += *tile++) {
                if (*tile != share.outputs) share = shared_out(s, *tile);
                kernel *const *kernels = s->tall ? TALL_OF[*tile - 1][rows - 1] : KERNEL_OF[*tile - 1];
                convolve_row(s, work, results, kernels, share, row, group * inputs,
                             group * outputs + done);
            }
        }
    }
}

/* Kernels of 3 x 3, each of one channel, on maps of one image whose rows are a part of a register:
 * there is so little to multiply that reading each shift would take longer. So rows and columns are
 * shifted in registers; columns last, so that it is done to sums. */
#define DEPTHWISE_OF(size)                                                                        \
    static void depthwise_##size(const step *s, float *work) {                                    \
        const truths has_left = (PLACES & (size - 1)) != 0;                                       \
        const truths has_right = (PLACES & (size - 1)) != size - 1;                               \
        for (index_t c = 0; c < s->outputs; c++) {                                                \
            const float *from = work + s->from + c * s->from_plane, *w = s->weights + 9 * c;      \
            float *to = work + s->to + c * s->to_plane;                                           \
            vector before = {0}, here = load(from);                                               \
            for (index_t v = 1; v <= s->rows; v++, from += WIDTH, to += WIDTH) {                  \
                const vector next = v < s->rows ? load(from + WIDTH) : (vector){0};               \
                const vector up = FROM(before, here, WIDTH - size), down = FROM(here, next, size); \
                const vector left = w[0] * up + w[3] * here + w[6] * down;                        \
                const vector middle = s->bias[c] + w[1] * up + w[4] * here + w[7] * down;         \
                const vector right = w[2] * up + w[5] * here + w[8] * down;                       \
                const truths from_left = has_left & (truths)FROM(left, left, WIDTH - 1);          \
                const truths from_right = has_right & (truths)FROM(right, right, 1);              \
                const vector sum = middle + (vector)from_left + (vector)from_right;               \
                store(to, within(sum, s->low, s->high));                                          \
                before = here;                                                                    \
                here = next;                                                                      \
            }                                                                                     \
        }                                                                                         \
    }
#if WIDTH >= 8
DEPTHWISE_OF(4)
#endif
#if WIDTH == 16
DEPTHWISE_OF(8)
#endif

void depthwise(const step *s, float *work) {
#if WIDTH == 16
    if (s->columns == 8) depthwise_8(s, work);
    else depthwise_4(s, work);
#elif WIDTH == 8
    depthwise_4(s, work);
#else
    (void)s, (void)work; /* no part of a register is a row of any use */
#endif
}

EXPORTED index_t passband_chain_sums(void) { return MOST_SUMS; }
EXPORTED index_t passband_chain_tall_outputs(void) { return MOST_TALL_OUTPUTS; }
