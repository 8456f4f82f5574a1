/* Maps to truncated spectra, and back. A lane is a map: one channel of one image. */
#include "transforms.h"

#define FLAT 256 /* points of a map that is taken into lanes as a whole */

/* ---- rows of maps in and out of lanes --------------------------------------------------------- */

static float *row_of_plane(const maps *m, index_t plane, index_t row) {
    return m->data + plane / m->channels * m->batch_stride +
           plane % m->channels * m->channel_stride + row * m->row_stride;
}

/* A row of LANES maps in registers: vector l of column j at vectors[l] + j * stride. What is `ahead`
 * of it is needed next. */
typedef struct {
    float *vectors[LANES / WIDTH];
    index_t stride, ahead;
} lane_row;

static lane_row row_in(float *buffer) {
    lane_row r = {.stride = LANES};
    for (index_t l = 0; l < LANES / WIDTH; l++) r.vectors[l] = buffer + l * WIDTH;
    return r;
}

/* Whether every WIDTH maps lie side by side in memory, so that registers meet them as they are. */
static int lanes_are_contiguous(const maps *m, index_t lanes) {
    return m->channel_stride == 1 && m->channels % WIDTH == 0 && lanes % WIDTH == 0;
}

static lane_row row_in_place(const maps *m, index_t plane, index_t lanes, index_t row,
                             index_t next) {
    lane_row r = {.stride = m->column_stride, .ahead = (next - row) * m->row_stride};
    for (index_t l = 0; l < lanes; l += WIDTH)
        r.vectors[l / WIDTH] = row_of_plane(m, plane + l, row);
    return r;
}

/* Columns of a row of each of `lanes` maps, side by side in `to`; the row after it is `next`. */
static void load_row(const maps *m, index_t plane, index_t lanes, index_t row, index_t next,
                     index_t columns, float *to) {
    const index_t ahead = (next - row) * m->row_stride;
    const int contiguous = lanes_are_contiguous(m, lanes);
    for (index_t l = 0; l < lanes; l += WIDTH) {
        const float *from[WIDTH];
        const index_t count = least(lanes - l, WIDTH);
        for (index_t i = 0; i < WIDTH; i++)
            from[i] = row_of_plane(m, plane + l + least(i, count - 1), row);
        if (m->column_stride == 1)
            transpose_in(from, columns, columns, ahead, to + l);
        else if (contiguous)
            for (index_t j = 0; j < columns; j++)
                store(to + j * LANES + l, load(from[0] + j * m->column_stride));
        else
            for (index_t j = 0; j < columns; j++)
                for (index_t i = 0; i < WIDTH; i++)
                    to[j * LANES + l + i] = from[i][j * m->column_stride];
    }
}

static void store_row(const maps *m, index_t plane, index_t lanes, index_t row, index_t columns,
                      const float *from) {
    const int contiguous = lanes_are_contiguous(m, lanes);
    for (index_t l = 0; l < lanes; l += WIDTH) {
        float *to[WIDTH];
        const index_t count = least(lanes - l, WIDTH);
        for (index_t i = 0; i < count; i++) to[i] = row_of_plane(m, plane + l + i, row);
        if (m->column_stride == 1)
            transpose_out(from + l, columns, count, to);
        else if (contiguous)
            for (index_t j = 0; j < columns; j++)
                store(to[0] + j * m->column_stride, load(from + j * LANES + l));
        else
            for (index_t j = 0; j < columns; j++)
                for (index_t i = 0; i < count; i++)
                    to[i][j * m->column_stride] = from[j * LANES + l + i];
    }
}

/* Whole maps of few points; where their rows lie one after the other, as one row. */
static void load_rows(const maps *m, index_t plane, index_t lanes, index_t rows, index_t columns,
                      float *to) {
    if (m->column_stride == 1 && m->row_stride == columns)
        load_row(m, plane, lanes, 0, 0, rows * columns, to);
    else
        for (index_t i = 0; i < rows; i++)
            load_row(m, plane, lanes, i, least(i + 1, rows - 1), columns, to + i * columns * LANES);
}

static void store_rows(const maps *m, index_t plane, index_t lanes, index_t rows, index_t columns,
                       const float *from) {
    if (m->column_stride == 1 && m->row_stride == columns)
        store_row(m, plane, lanes, 0, rows * columns, from);
    else
        for (index_t i = 0; i < rows; i++)
            store_row(m, plane, lanes, i, columns, from + i * columns * LANES);
}

/* Two rows folded along both axes. The first letter is the row's: even is their sum, odd their
 * difference. `second` is NULL for a row without a mirror image: it is its own even part. */
typedef struct {
    float *ee, *eo, *oe, *oo;
} folded_rows;

static void fold_rows(const axis *ax, index_t lanes, const lane_row *first, const lane_row *second,
                      const folded_rows *to) {
    for (index_t s = 0; s < ax->slots; s++) {
        const int paired = s < ax->pairs, has_odd = s < ax->odd_slots;
        const index_t a = ax->first[s] * first->stride;
        const index_t b = paired ? ax->second[s] * first->stride : a;
        for (index_t l = 0; l < lanes; l += WIDTH) {
            const index_t slot = s * LANES + l;
            const float *f = first->vectors[l / WIDTH];
            vector fe = load(f + a), fo = fe;
            __builtin_prefetch(f + a + first->ahead);
            if (paired) {
                __builtin_prefetch(f + b + first->ahead);
                vector mirror = load(f + b);
                fo = fe - mirror;
                fe += mirror;
            }
            if (!second) {
                store(to->ee + slot, fe);
                if (has_odd) store(to->eo + slot, fo);
                continue;
            }
            const float *g = second->vectors[l / WIDTH];
            vector ge = load(g + a), go = ge;
            __builtin_prefetch(g + a + second->ahead);
            if (paired) {
                __builtin_prefetch(g + b + second->ahead);
                vector mirror = load(g + b);
                go = ge - mirror;
                ge += mirror;
            }
            store(to->ee + slot, fe + ge);
            store(to->oe + slot, fe - ge);
            if (has_odd) {
                store(to->eo + slot, fo + go);
                store(to->oo + slot, fo - go);
            }
        }
    }
}

/* The inverse, and the adjoint. */
static void unfold_rows(const axis *ax, index_t lanes, const folded_rows *from,
                        const lane_row *first, const lane_row *second) {
    for (index_t s = 0; s < ax->slots; s++) {
        const int paired = s < ax->pairs, has_odd = s < ax->odd_slots;
        const index_t a = ax->first[s] * first->stride;
        const index_t b = paired ? ax->second[s] * first->stride : a;
        for (index_t l = 0; l < lanes; l += WIDTH) {
            const index_t slot = s * LANES + l;
            float *f = first->vectors[l / WIDTH];
            vector ee = load(from->ee + slot), eo = {0};
            if (has_odd) eo = load(from->eo + slot);
            if (!second) {
                store(f + a, ee + eo);
                if (paired) store(f + b, ee - eo);
                continue;
            }
            float *g = second->vectors[l / WIDTH];
            vector oe = load(from->oe + slot), oo = {0};
            if (has_odd) oo = load(from->oo + slot);
            vector even = ee + eo, odd = oe + oo;
            store(f + a, even + odd);
            store(g + a, even - odd);
            if (paired) {
                even = ee - eo;
                odd = oe - oo;
                store(f + b, even + odd);
                store(g + b, even - odd);
            }
        }
    }
}

/* ---- maps to spectra, and back ------------------------------------------------------------------ */

/* Memory of a transform of LANES maps. */
typedef struct {
    float *first, *second; /* rows of points, or all rows where the map is `flat` */
    folded_rows folded;    /* both rows, from points to slots along the columns */
    float *even, *odd;     /* slots along the rows, frequencies along the columns */
    float *spectrum;       /* one column, or all where `whole` */
} transform_memory;

/* Whether the map is taken into lanes as a whole: then no row is too short for a register. */
static int is_flat(const transform *t) {
    return t->maps->column_stride == 1 && t->maps->row_stride == t->columns->points &&
           t->rows->points * t->columns->points <= FLAT;
}

static transform_memory memory_of(const transform *t, int whole) {
    const axis *rows = t->rows, *columns = t->columns;
    const index_t points = columns->points * LANES * (is_flat(t) ? rows->points : 1);
    const index_t slots = columns->slots * LANES;
    const index_t width = frequencies(columns), line = width * LANES;
    const index_t spectrum = frequencies(rows) * (whole ? line : LANES);
    float *left = scratch(2 * points + 4 * slots + 2 * rows->slots * line + spectrum + 128);
    transform_memory m = {.first = take(&left, points), .second = take(&left, points)};
    m.folded.ee = take(&left, slots);
    m.folded.eo = take(&left, slots);
    m.folded.oe = take(&left, slots);
    m.folded.oo = take(&left, slots);
    m.even = take(&left, rows->slots * line);
    m.odd = take(&left, rows->slots * line);
    m.spectrum = take(&left, spectrum);
    return m;
}

static void analyze_columns(const axis *ax, index_t lanes, const float *even, const float *odd,
                            float *to) {
    multiply(ax->cosines, lanes, ax->slots, ax->cosine, ax->slots, 1, even, LANES, to, LANES, 0);
    multiply(ax->sines, lanes, ax->odd_slots, ax->sine, ax->odd_slots, 1, odd, LANES,
             to + ax->cosines * LANES, LANES, 0);
}

static index_t blocks(const transform *t) { return (t->planes + LANES - 1) / LANES; }

/* The transform that a task is of; the task becomes the number of its block. */
static const transform *transform_of(const transform *all, index_t *task) {
    for (; *task >= blocks(all); all++) *task -= blocks(all);
    return all;
}

static void run(void (*of_task)(const void *, index_t), const transform *all, index_t count,
                index_t threads) {
    index_t tasks = 0;
    for (index_t i = 0; i < count; i++) tasks += blocks(all + i);
    in_parallel(of_task, all, tasks, threads);
}

static void analyze_task(const void *all, index_t task) {
    const transform *t = transform_of(all, &task);
    const axis *rows = t->rows, *columns = t->columns;
    const index_t plane = task * LANES, lanes = least(t->planes - plane, LANES);
    const index_t computed = whole_vectors(lanes), width = frequencies(columns);
    const index_t line = width * LANES;
    const int whole = computed == lanes && !t->spectra && !t->drain;
    const int in_place = lanes_are_contiguous(t->maps, lanes), flat = !in_place && is_flat(t);
    const transform_memory m = memory_of(t, !whole);
    lane_row first = row_in(m.first), second = row_in(m.second);

    if (flat) load_row(t->maps, plane, lanes, 0, 0, rows->points * columns->points, m.first);
    for (index_t s = 0; s < rows->slots; s++) {
        const int paired = s < rows->pairs;
        const index_t a = rows->first[s], b = paired ? rows->second[s] : a;
        const index_t next = s + 1 < rows->slots ? s + 1 : s;
        const index_t next_a = rows->first[next], next_b = next < rows->pairs ? rows->second[next] : b;
        if (in_place) {
            first = row_in_place(t->maps, plane, lanes, a, next_a);
            second = row_in_place(t->maps, plane, lanes, b, next_b);
        } else if (flat) {
            first = row_in(m.first + a * columns->points * LANES);
            second = row_in(m.first + b * columns->points * LANES);
        } else {
            load_row(t->maps, plane, lanes, a, next_a, columns->points, m.first);
            if (paired) load_row(t->maps, plane, lanes, b, next_b, columns->points, m.second);
        }
        fold_rows(columns, computed, &first, paired ? &second : NULL, &m.folded);
        analyze_columns(columns, computed, m.folded.ee, m.folded.eo, m.even + s * line);
        if (paired)
            analyze_columns(columns, computed, m.folded.oe, m.folded.oo, m.odd + s * line);
        else if (s < rows->odd_slots)
            memcpy(m.odd + s * line, m.even + s * line, (size_t)line * sizeof(float));
    }
    float *out = whole ? t->spectrum + plane : m.spectrum;
    const index_t out_row = whole ? t->spectrum_row : LANES;
    for (index_t v = 0; v < width; v++) {
        multiply(rows->cosines, computed, rows->slots, rows->cosine, rows->slots, 1,
                 m.even + v * LANES, line, out + v * out_row, width * out_row, 0);
        multiply(rows->sines, computed, rows->odd_slots, rows->sine, rows->odd_slots, 1,
                 m.odd + v * LANES, line, out + (rows->cosines * width + v) * out_row,
                 width * out_row, 0);
    }
    if (t->spectra)
        store_rows(t->spectra, plane, lanes, frequencies(rows), width, out);
    else if (t->drain)
        t->drain(t->other, plane, lanes, out);
    else if (!whole)
        for (index_t f = 0; f < frequencies(rows) * width; f++)
            memcpy(t->spectrum + f * t->spectrum_row + plane, out + f * LANES,
                   (size_t)lanes * sizeof(float));
}

static void synthesize_columns(const axis *ax, index_t lanes, const float *spectrum, float *even,
                               float *odd) {
    multiply(ax->slots, lanes, ax->cosines, ax->cosine, 1, ax->slots, spectrum, LANES, even, LANES,
             0);
    multiply(ax->odd_slots, lanes, ax->sines, ax->sine, 1, ax->odd_slots,
             spectrum + ax->cosines * LANES, LANES, odd, LANES, 0);
}

static void synthesize_task(const void *all, index_t task) {
    const transform *t = transform_of(all, &task);
    const axis *rows = t->rows, *columns = t->columns;
    const index_t plane = task * LANES, lanes = least(t->planes - plane, LANES);
    const index_t computed = whole_vectors(lanes), width = frequencies(columns);
    const index_t line = width * LANES;
    const int in_place = lanes_are_contiguous(t->maps, lanes), flat = !in_place && is_flat(t);
    const int whole = t->spectra || t->fill; /* lie in our memory, all frequencies of some planes */
    const transform_memory m = memory_of(t, whole);
    lane_row first = row_in(m.first), second = row_in(m.second);

    if (t->spectra) load_rows(t->spectra, plane, lanes, frequencies(rows), width, m.spectrum);
    if (t->fill) t->fill(t->other, plane, lanes, m.spectrum);
    for (index_t v = 0; v < width; v++) {
        const float *from = m.spectrum + (whole ? v * LANES : 0);
        const index_t next = whole ? line : LANES;
        if (!whole)
            for (index_t u = 0; u < frequencies(rows); u++)
                memcpy(m.spectrum + u * LANES,
                       t->spectrum + (u * width + v) * t->spectrum_row + plane,
                       (size_t)lanes * sizeof(float));
        multiply(rows->slots, computed, rows->cosines, rows->cosine, 1, rows->slots, from, next,
                 m.even + v * LANES, line, 0);
        multiply(rows->odd_slots, computed, rows->sines, rows->sine, 1, rows->odd_slots,
                 from + rows->cosines * next, next, m.odd + v * LANES, line, 0);
    }
    for (index_t s = 0; s < rows->slots; s++) {
        const int paired = s < rows->pairs;
        float *even = m.even + s * line, *odd = m.odd + s * line;
        if (!paired && s < rows->odd_slots)
            for (index_t i = 0; i < line; i++) even[i] += odd[i];
        synthesize_columns(columns, computed, even, m.folded.ee, m.folded.eo);
        if (paired) synthesize_columns(columns, computed, odd, m.folded.oe, m.folded.oo);
        const index_t a = rows->first[s], b = paired ? rows->second[s] : a;
        if (in_place) {
            first = row_in_place(t->maps, plane, lanes, a, a);
            second = row_in_place(t->maps, plane, lanes, b, b);
        } else if (flat) {
            first = row_in(m.first + a * columns->points * LANES);
            second = row_in(m.first + b * columns->points * LANES);
        }
        unfold_rows(columns, computed, &m.folded, &first, paired ? &second : NULL);
        if (!in_place && !flat) {
            store_row(t->maps, plane, lanes, a, columns->points, m.first);
            if (paired) store_row(t->maps, plane, lanes, b, columns->points, m.second);
        }
    }
    if (flat) store_row(t->maps, plane, lanes, 0, rows->points * columns->points, m.first);
}

void analyze(const transform *all, index_t count, index_t threads) {
    run(analyze_task, all, count, threads);
}

void synthesize(const transform *all, index_t count, index_t threads) {
    run(synthesize_task, all, count, threads);
}

EXPORTED void passband_analyze(const maps *from, index_t planes, const axis *rows,
                               const axis *columns, float *spectrum, index_t spectrum_row,
                               const maps *spectra, index_t threads) {
    const transform t = {from, planes, rows, columns, spectrum, spectrum_row, spectra};
    analyze(&t, 1, threads);
}

EXPORTED void passband_synthesize(const maps *to, index_t planes, const axis *rows,
                                  const axis *columns, float *spectrum, index_t spectrum_row,
                                  const maps *spectra, index_t threads) {
    const transform t = {to, planes, rows, columns, spectrum, spectrum_row, spectra};
    synthesize(&t, 1, threads);
}
