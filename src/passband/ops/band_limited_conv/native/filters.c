/* Filters, transformed along the rows and folded along the columns; and their gradient back. */
#include "core.h"

/* Filters in blocks of LANES channels, [lane block][row frequency][column slot][term][LANES]. Row
 * frequencies are those of a spectrum, cosines first; column slots are the even ones, then the odd.
 * Terms are the other channels, over which the product adds up. */
typedef struct {
    const float *weight, *end; /* from the first of the lanes; where the filters end */
    float *gradient, *packed;
    int accumulate;
    index_t lanes, terms, lane_stride, term_stride;
    float sign; /* of the sines: -1 for the conjugate */
    const axis *rows, *columns;
} taps_arguments;

#define TERMS 16 /* of one task */

typedef struct {
    index_t block, first, last, lanes; /* the terms from first to last of a block of lanes */
    index_t line;                      /* numbers of one row of folded taps */
    float *near, *before, *half, *folded;
} taps_task;

static taps_task taps_task_of(const taps_arguments *t, index_t task) {
    const index_t groups = (t->terms + TERMS - 1) / TERMS;
    const index_t line = components(t->columns) * LANES;
    const index_t taps = t->rows->points * t->columns->points * LANES * TERMS;
    taps_task k = {.block = task / groups, .first = task % groups * TERMS, .line = line};
    k.last = least(k.first + TERMS, t->terms);
    k.lanes = least(t->lanes - k.block * LANES, LANES);
    float *left = scratch(2 * taps + (t->rows->points + components(t->rows)) * line + 128);
    k.near = take(&left, taps);
    k.before = take(&left, taps);
    k.half = take(&left, t->rows->points * line);
    k.folded = take(&left, components(t->rows) * line);
    return k;
}

/* The filters of a task in memory. Where a lane's terms lie one after the other they are one row:
 * lanes are a power of two apart then, and tap by tap would drive each other from the cache. */
typedef struct {
    index_t rows, columns, row_stride;
} taps_layout;

static taps_layout layout_of(const taps_arguments *t, const taps_task *k) {
    const index_t taps = t->rows->points * t->columns->points, terms = k->last - k->first;
    if (t->term_stride == taps) return (taps_layout){1, terms * taps, 0};
    return (taps_layout){terms, taps, t->term_stride};
}

static index_t first_tap(const taps_arguments *t, const taps_task *k) {
    return k->block * LANES * t->lane_stride + k->first * t->term_stride;
}

/* From memory that ends at `end` to [term][tap][LANES]. */
static void gather_taps(const taps_arguments *t, const taps_task *k, const float *from,
                        const float *end, float *to) {
    const taps_layout in = layout_of(t, k);
    for (index_t row = 0; row < in.rows; row++)
        for (index_t l = 0; l < LANES; l += WIDTH) {
            const float *lane[WIDTH]; /* lanes that are not there repeat the last */
            for (index_t i = 0; i < WIDTH; i++)
                lane[i] = from + row * in.row_stride + least(l + i, k->lanes - 1) * t->lane_stride;
            transpose_in(lane, in.columns, end - lane[WIDTH - 1], 0,
                         to + row * in.columns * LANES + l);
        }
}

static void scatter_taps(const taps_arguments *t, const taps_task *k, const float *from,
                         float *to) {
    const taps_layout out = layout_of(t, k);
    for (index_t row = 0; row < out.rows; row++)
        for (index_t l = 0; l < k->lanes; l += WIDTH) {
            float *lane[WIDTH];
            for (index_t i = 0; i < WIDTH; i++)
                lane[i] = to + row * out.row_stride + least(l + i, k->lanes - 1) * t->lane_stride;
            transpose_out(from + row * out.columns * LANES + l, out.columns,
                          least(k->lanes - l, WIDTH), lane);
        }
}

/* Where the numbers of one term begin; `u_row` numbers from one row frequency to the next and
 * `c_row` from one column slot to the next. */
static float *packed_term(const taps_arguments *t, const taps_task *k, index_t term, index_t *u_row,
                          index_t *c_row) {
    *c_row = t->terms * LANES;
    *u_row = components(t->columns) * *c_row;
    return t->packed + k->block * frequencies(t->rows) * *u_row + term * LANES;
}

static void pack_taps_task(const void *pointer, index_t task) {
    const taps_arguments *t = pointer;
    const axis *rows = t->rows, *columns = t->columns;
    const taps_task k = taps_task_of(t, task);
    const index_t width = columns->points, taps = rows->points * width;
    const index_t even = rows->slots, odd = rows->odd_slots;
    gather_taps(t, &k, t->weight + first_tap(t, &k), t->end, k.near);
    for (index_t term = k.first; term < k.last; term++) {
        const float *near = k.near + (term - k.first) * taps * LANES;
        float *odd_rows = k.folded + even * k.line;
        for (index_t i = 0; i < rows->points; i++)
            fold(columns, LANES, near + i * width * LANES, k.half + i * k.line,
                 k.half + i * k.line + columns->slots * LANES);
        fold(rows, k.line, k.half, k.folded, odd_rows);
        for (index_t i = 0; t->sign < 0 && i < odd * k.line; i += WIDTH)
            store(odd_rows + i, -load(odd_rows + i));
        index_t u_row, c_row;
        float *to = packed_term(t, &k, term, &u_row, &c_row);
        for (index_t c = 0; c < components(columns); c++, to += c_row) {
            multiply(rows->cosines, LANES, even, rows->cosine, even, 1, k.folded + c * LANES, k.line,
                     to, u_row, 0);
            multiply(rows->sines, LANES, odd, rows->sine, odd, 1, odd_rows + c * LANES, k.line,
                     to + rows->cosines * u_row, u_row, 0);
        }
    }
}

/* The adjoint of packing: the gradient of the filters. */
static void unpack_taps_task(const void *pointer, index_t task) {
    const taps_arguments *t = pointer;
    const axis *rows = t->rows, *columns = t->columns;
    const taps_task k = taps_task_of(t, task);
    const index_t width = columns->points, taps = rows->points * width;
    const index_t even = rows->slots, odd = rows->odd_slots;
    for (index_t term = k.first; term < k.last; term++) {
        index_t u_row, c_row;
        const float *from = packed_term(t, &k, term, &u_row, &c_row);
        float *odd_rows = k.folded + even * k.line;
        for (index_t c = 0; c < components(columns); c++, from += c_row) {
            multiply(even, LANES, rows->cosines, rows->cosine, 1, even, from, u_row,
                     k.folded + c * LANES, k.line, 0);
            multiply(odd, LANES, rows->sines, rows->sine, 1, odd, from + rows->cosines * u_row,
                     u_row, odd_rows + c * LANES, k.line, 0);
        }
        float *near = k.near + (term - k.first) * taps * LANES;
        unfold(rows, k.line, k.folded, odd_rows, k.half);
        for (index_t i = 0; i < rows->points; i++)
            unfold(columns, LANES, k.half + i * k.line,
                   k.half + i * k.line + columns->slots * LANES, near + i * width * LANES);
    }
    float *gradient = t->gradient + first_tap(t, &k);
    if (t->accumulate) {
        const index_t count = (k.last - k.first) * taps * LANES;
        gather_taps(t, &k, gradient, t->end, k.before);
        for (index_t i = 0; i < count; i += WIDTH)
            store(k.near + i, load(k.near + i) + load(k.before + i));
    }
    scatter_taps(t, &k, k.near, gradient);
}

static index_t taps_tasks(index_t lanes, index_t terms) {
    return (lanes + LANES - 1) / LANES * ((terms + TERMS - 1) / TERMS);
}

EXPORTED void passband_pack_taps(const float *weight, const float *end, index_t lanes, index_t terms,
                        index_t lane_stride, index_t term_stride, float sign, const axis *rows,
                        const axis *columns, float *packed, index_t threads) {
    taps_arguments t = {.weight = weight, .end = end, .packed = packed, .lanes = lanes, .terms = terms,
                        .lane_stride = lane_stride, .term_stride = term_stride, .sign = sign,
                        .rows = rows, .columns = columns};
    in_parallel(pack_taps_task, &t, taps_tasks(lanes, terms), threads);
}

EXPORTED void passband_unpack_taps(float *packed, index_t lanes, index_t terms, index_t lane_stride,
                          index_t term_stride, const axis *rows, const axis *columns,
                          float *gradient, const float *end, int accumulate, index_t threads) {
    taps_arguments t = {.gradient = gradient, .end = end, .accumulate = accumulate,
                        .packed = packed, .lanes = lanes, .terms = terms,
                        .lane_stride = lane_stride, .term_stride = term_stride, .sign = 1,
                        .rows = rows, .columns = columns};
    in_parallel(unpack_taps_task, &t, taps_tasks(lanes, terms), threads);
}
