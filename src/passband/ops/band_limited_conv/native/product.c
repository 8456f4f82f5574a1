/* The product over channels, frequency by frequency, and the gradient of its filters. */
#include "core.h"

#define DEPTH 64          /* terms of a product at a time: their rows fit the first cache */
#define STRIP 12          /* rows of the filters' gradient at a time */
#define CACHED (64 << 10) /* numbers that stay in the second cache between two uses */
#define MAX_PARTS 6       /* three real products for each of two complex numbers */

/* ---- the product over channels, frequency by frequency -------------------------------------------- */

/* The real coefficients of one pair of frequencies: rows of the spectrum, cosine or sine of each
 * axis. Frequencies that are their own negative have no sine. */
typedef struct {
    index_t u, v;
    int row_sine, column_sine;
    index_t cc, cs, sc, ss; /* rows of the spectrum; the first letter is the row frequency's */
    int parts;              /* real products: 6 for two complex bins, 3 for one, 1 for a real one */
} bin;

static bin bin_at(const axis *rows, const axis *columns, index_t u, index_t v) {
    const index_t width = frequencies(columns);
    bin b = {.u = u, .v = v, .row_sine = u >= 1 && u <= rows->sines,
             .column_sine = v >= 1 && v <= columns->sines};
    const index_t row = rows->cosines + u - 1, column = columns->cosines + v - 1;
    b.cc = u * width + v;
    b.cs = u * width + column;
    b.sc = row * width + v;
    b.ss = row * width + column;
    b.parts = b.row_sine && b.column_sine ? 6 : b.row_sine || b.column_sine ? 3 : 1;
    return b;
}

/* The parts of `count` numbers of a spectrum: Xr, Xi and Xr + Xi of X(+u, v) and X(-u, v); with
 * `sign` -1 those of the conjugates. */
static void split(const bin *b, const float *spectrum, index_t row, index_t count, float sign,
                  float *to, index_t part) {
    const float *cc = spectrum + b->cc * row, *cs = spectrum + b->cs * row;
    const float *sc = spectrum + b->sc * row, *ss = spectrum + b->ss * row;
    if (b->parts == 1) {
        memcpy(to, cc, (size_t)count * sizeof(float));
    } else if (b->parts == 3) {
        const float *sine = b->row_sine ? sc : cs;
#define SPLIT(type, get, put)                                                                     \
    type real = get(cc + i), imag = -sign * get(sine + i);                                        \
    put(to + i, real);                                                                            \
    put(to + part + i, imag);                                                                     \
    put(to + 2 * part + i, real + imag);
        FOR_EACH(i, count, SPLIT)
#undef SPLIT
    } else {
#define SPLIT(type, get, put)                                                                     \
    type even = get(cc + i), odd = get(ss + i), left = sign * get(sc + i), right = sign * get(cs + i); \
    type real = even - odd, imag = -left - right;                                                 \
    put(to + i, real);                                                                            \
    put(to + part + i, imag);                                                                     \
    put(to + 2 * part + i, real + imag);                                                          \
    real = even + odd;                                                                            \
    imag = left - right;                                                                          \
    put(to + 3 * part + i, real);                                                                 \
    put(to + 4 * part + i, imag);                                                                 \
    put(to + 5 * part + i, real + imag);
        FOR_EACH(i, count, SPLIT)
#undef SPLIT
    }
}

typedef struct {
    const float *from;
    float *to;
    index_t from_row, to_row, batch, inputs;
    index_t outputs, to_image; /* of `to_image` channels of an image, `outputs` are computed */
    const axis *rows, *columns; /* of the band: cosines and sines alone */
    const axis *taps_axis;      /* the filters' columns */
    const float *taps;
    float sign; /* +1 for the convolution, -1 for its adjoint */
    const float *bias;
    float bias_scale;
    index_t chunk; /* column frequencies of one task */
} product_arguments;

/* The parts of the filters at one pair of frequencies, rows of LANES outputs per input channel:
 * Li - Lr, Lr + Li, Lr for L(+u, v), then for L(-u, v). Made of the filters' cosine `c` and sine `s`
 * along the rows, whose slots of the columns lie `stage_size` apart. */
INLINE void filter_parts_of(const product_arguments *p, const bin *b, const float *c,
                            const float *s, index_t stage_size, index_t count, float *to,
                            index_t part, const index_t even, const index_t odd) {
    const axis *ax = p->taps_axis;
    const index_t size = count * LANES;
    const float *cosine = ax->cosine + b->v * even, *sine = ax->sine + (b->v - 1) * odd;
    const float half = b->parts == 6 ? 0.5f : 1.0f;
    for (index_t i = 0; i < size; i += WIDTH) {
        vector cc = {0}, cs = {0}, sc = {0}, ss = {0};
        for (index_t t = 0; t < even; t++) cc += cosine[t] * load(c + t * stage_size + i);
        if (b->column_sine)
            for (index_t t = 0; t < odd; t++)
                cs += sine[t] * load(c + (even + t) * stage_size + i);
        if (b->row_sine) {
            for (index_t t = 0; t < even; t++) sc += cosine[t] * load(s + t * stage_size + i);
            if (b->column_sine)
                for (index_t t = 0; t < odd; t++)
                    ss += sine[t] * load(s + (even + t) * stage_size + i);
        }
        /* the sines of the rows carry the sign already; those of the columns take it here */
        cs *= p->sign;
        ss *= p->sign;
        if (b->parts == 1) {
            store(to + i, cc);
        } else if (b->parts == 3) {
            vector imag = cs + sc;
            store(to + i, imag - cc);
            store(to + part + i, cc + imag);
            store(to + 2 * part + i, cc);
        } else {
            vector real = half * (cc - ss), imag = half * (cs + sc);
            store(to + i, imag - real);
            store(to + part + i, real + imag);
            store(to + 2 * part + i, real);
            real = half * (cc + ss);
            imag = half * (cs - sc);
            store(to + 3 * part + i, imag - real);
            store(to + 4 * part + i, real + imag);
            store(to + 5 * part + i, real);
        }
    }
}

/* With the number of slots known to the compiler where it is that of 3, 5 or 7 taps. */
#define USUAL_TAPS TAPS(2, 1) TAPS(3, 2) TAPS(4, 3)
static void filter_parts(const product_arguments *p, const bin *b, const float *c, const float *s,
                         index_t stage_size, index_t count, float *to, index_t part) {
    const index_t even = p->taps_axis->slots, odd = p->taps_axis->odd_slots;
#define TAPS(e, o)                                                                                \
    if (even == e && odd == o) {                                                                  \
        filter_parts_of(p, b, c, s, stage_size, count, to, part, e, o);                           \
        return;                                                                                   \
    }
    USUAL_TAPS
#undef TAPS
    filter_parts_of(p, b, c, s, stage_size, count, to, part, even, odd);
}

/* Real coefficients from the products P2 = Xr (Li - Lr), P3 = Xi (Lr + Li), P1 = (Xr + Xi) Lr. */
static void join(const bin *b, const float *products, index_t part, index_t count, float *to,
                 index_t row) {
    float *cc = to + b->cc * row, *cs = to + b->cs * row, *sc = to + b->sc * row;
    float *ss = to + b->ss * row;
    const float *p2 = products, *p3 = p2 + part, *p1 = p3 + part;
    const float *q2 = p1 + part, *q3 = q2 + part, *q1 = q3 + part;
    if (b->parts == 1) {
        memcpy(cc, products, (size_t)count * sizeof(float));
    } else if (b->parts == 3) {
        float *sine = b->row_sine ? sc : cs;
#define JOIN(type, get, put)                                                                      \
    type sum = get(p1 + i);                                                                       \
    put(cc + i, sum - get(p3 + i));                                                               \
    put(sine + i, -(sum + get(p2 + i)));
        FOR_EACH(i, count, JOIN)
#undef JOIN
    } else {
#define JOIN(type, get, put)                                                                      \
    type plus = get(p1 + i), minus = get(q1 + i);                                                 \
    type plus_real = plus - get(p3 + i), plus_imag = plus + get(p2 + i);                          \
    type minus_real = minus - get(q3 + i), minus_imag = minus + get(q2 + i);                      \
    put(cc + i, plus_real + minus_real);                                                          \
    put(ss + i, minus_real - plus_real);                                                          \
    put(cs + i, -(plus_imag + minus_imag));                                                       \
    put(sc + i, minus_imag - plus_imag);
        FOR_EACH(i, count, JOIN)
#undef JOIN
    }
}

static void product_task(const void *pointer, index_t task) {
    const product_arguments *p = pointer;
    const index_t blocks = (p->outputs + LANES - 1) / LANES, columns = p->columns->cosines;
    const index_t chunks = (columns + p->chunk - 1) / p->chunk;
    const index_t block = task % blocks, first_v = task / blocks % chunks * p->chunk;
    const index_t last_v = least(first_v + p->chunk, columns);
    const index_t u = p->rows->cosines - 1 - task / blocks / chunks;
    const index_t lanes = least(p->outputs - block * LANES, LANES), computed = whole_vectors(lanes);
    const index_t size = p->inputs * LANES, line = components(p->taps_axis) * size;
    const index_t product_part = p->batch * LANES, x_part = p->batch * DEPTH;
    const index_t filter_part = DEPTH * LANES, one = MAX_PARTS * product_part;
    float *left = scratch(p->chunk * one + MAX_PARTS * (x_part + filter_part) + 128);
    float *products = take(&left, p->chunk * one);
    float *x = take(&left, MAX_PARTS * x_part), *filters = take(&left, MAX_PARTS * filter_part);
    const float *cosine = p->taps + (block * frequencies(p->rows) + u) * line;
    const float *sine = p->taps + (block * frequencies(p->rows) + p->rows->cosines + u - 1) * line;
    if (!(u >= 1 && u <= p->rows->sines)) sine = cosine; /* not used */

    for (index_t first = 0; first < p->inputs; first += DEPTH) {
        const index_t depth = least(p->inputs - first, DEPTH);
        for (index_t v = first_v; v < last_v; v++) {
            const bin b = bin_at(p->rows, p->columns, u, v);
            filter_parts(p, &b, cosine + first * LANES, sine + first * LANES, size, depth, filters,
                         filter_part);
            if (depth == p->inputs)
                split(&b, p->from, p->from_row, p->batch * depth, 1, x, x_part);
            else
                for (index_t n = 0; n < p->batch; n++)
                    split(&b, p->from + n * p->inputs + first, p->from_row, depth, 1,
                          x + n * depth, x_part);
            for (int part = 0; part < b.parts; part++)
                multiply(p->batch, computed, depth, x + part * x_part, depth, 1,
                         filters + part * filter_part, LANES,
                         products + (v - first_v) * one + part * product_part, LANES, first > 0);
        }
    }
    float *to = p->to + block * LANES;
    for (index_t v = first_v; v < last_v; v++) {
        const bin b = bin_at(p->rows, p->columns, u, v);
        const float *from = products + (v - first_v) * one;
        if (p->to_image == LANES)
            join(&b, from, product_part, p->batch * LANES, to, p->to_row);
        else
            for (index_t n = 0; n < p->batch; n++)
                join(&b, from + n * LANES, product_part, lanes, to + n * p->to_image, p->to_row);
    }
    if (p->bias && u == 0 && first_v == 0)
        for (index_t n = 0; n < p->batch; n++)
            for (index_t l = 0; l < lanes; l++)
                to[n * p->to_image + l] += p->bias_scale * p->bias[block * LANES + l];
}

/* Spectrum of the output from that of the input. `rows` and `columns` name the band. */
EXPORTED void passband_product(const float *from, index_t from_row, index_t batch, index_t inputs,
                               float *to, index_t to_row, index_t to_image, index_t outputs,
                               const axis *rows, const axis *columns, const axis *taps_axis,
                               const float *taps, float sign, const float *bias, float bias_scale,
                               index_t threads) {
    const index_t tasks = rows->cosines * ((outputs + LANES - 1) / LANES);
    /* the products of one task fit the cache, and every thread finds a task at the end */
    const index_t fitting = CACHED / (MAX_PARTS * batch * LANES);
    const index_t chunks = threads > 1 ? (8 * threads + tasks - 1) / tasks : 1;
    index_t chunk = least(fitting, columns->cosines / chunks);
    if (chunk < 1) chunk = 1;
    product_arguments p = {from, to, from_row, to_row, batch, inputs, outputs, to_image, rows, columns,
                           taps_axis, taps, sign, bias, bias_scale, chunk};
    in_parallel(product_task, &p, tasks * ((columns->cosines + chunk - 1) / chunk), threads);
}

/* ---- the filters' gradient ------------------------------------------------------------------------ */

typedef struct {
    const float *x, *g;
    index_t x_row, g_row, batch, inputs;
    index_t outputs, g_image; /* of `g_image` channels of an image, `outputs` are used */
    const axis *rows, *columns, *taps_axis;
    float *taps;
    index_t chunk; /* column frequencies at a time */
} correlate_arguments;

/* The adjoint of `filter_parts`, first step: the coefficients cc, cs, sc, ss of the filters' gradient
 * from products of conjugates, each `kind` apart. */
static void coefficients_of(const bin *b, const float *products, index_t part, index_t size,
                            float *to, index_t kind) {
    const float *p2 = products, *p3 = p2 + part, *p1 = p3 + part;
    const float *q2 = p1 + part, *q3 = q2 + part, *q1 = q3 + part;
    if (b->parts == 1) {
        memcpy(to, products, (size_t)size * sizeof(float));
        return;
    }
    float *imag = to + (b->row_sine ? 2 : 1) * kind; /* of one bin, whose sine is along one axis */
    for (index_t i = 0; i < size; i += WIDTH) {
        vector real_part = load(p1 + i) - load(p3 + i), imag_part = load(p1 + i) + load(p2 + i);
        if (b->parts == 3) {
            store(to + i, real_part);
            store(imag + i, imag_part);
            continue;
        }
        vector minus_real = load(q1 + i) - load(q3 + i), minus_imag = load(q1 + i) + load(q2 + i);
        store(to + i, 0.5f * (real_part + minus_real));
        store(to + kind + i, 0.5f * (imag_part + minus_imag));
        store(to + 2 * kind + i, 0.5f * (imag_part - minus_imag));
        store(to + 3 * kind + i, 0.5f * (minus_real - real_part));
    }
}

/* Second step: those of the column frequencies from `first_v` on, `one` apart, added to slots of the
 * columns, which lie `slot` apart. */
static void add_to_slots(const axis *taps, const axis *columns, index_t first_v, index_t last_v,
                         const float *of_cosine, const float *of_sine, index_t one, index_t size,
                         float *to, index_t slot) {
    const index_t even = taps->slots, odd = taps->odd_slots;
    multiply(even, size, last_v - first_v, taps->cosine + first_v * even, 1, even, of_cosine, one, to,
             slot, 1);
    const index_t first = first_v < 1 ? 1 : first_v, last = least(last_v, columns->sines + 1);
    if (first < last)
        multiply(odd, size, last - first, taps->sine + (first - 1) * odd, 1, odd,
                 of_sine + (first - first_v) * one, one, to + even * slot, slot, 1);
}

/* Both spectra at one pair of frequencies: Xr, Xi, Xr + Xi of the conjugate, and Gi - Gr, Gr + Gi,
 * Gr, with rows of LANES channels per image. */
static void split_both(const correlate_arguments *p, index_t index, index_t u, index_t v,
                       index_t input_block, index_t inputs, index_t block, index_t lanes, float *x,
                       float *g) {
    const bin b = bin_at(p->rows, p->columns, u, v);
    const index_t part = p->batch * LANES;
    x += index * MAX_PARTS * part;
    g += index * MAX_PARTS * part;
    for (index_t n = 0; n < p->batch; n++) {
        split(&b, p->x + n * p->inputs + input_block * LANES, p->x_row, inputs, -1, x + n * LANES,
              part);
        split(&b, p->g + n * p->g_image + block * LANES, p->g_row, lanes, 1, g + n * LANES, part);
    }
    for (int first = 0; first < b.parts - 1; first += 3)
        for (index_t i = 0; i < part; i += WIDTH) {
            float *at = g + first * part + i;
            vector real = load(at), imag = load(at + part), sum = load(at + 2 * part);
            store(at, imag - real);
            store(at + part, sum);
            store(at + 2 * part, real);
        }
}

static void correlate_task(const void *pointer, index_t task) {
    const correlate_arguments *p = pointer;
    const index_t blocks = (p->outputs + LANES - 1) / LANES;
    const index_t input_blocks = (p->inputs + LANES - 1) / LANES;
    const index_t block = task % blocks, input_block = task / blocks % input_blocks;
    const index_t u = p->rows->cosines - 1 - task / blocks / input_blocks;
    const index_t lanes = least(p->outputs - block * LANES, LANES), computed = whole_vectors(lanes);
    const index_t inputs = least(p->inputs - input_block * LANES, LANES), size = inputs * LANES;
    const index_t slots = components(p->taps_axis), part = p->batch * LANES;
    const index_t strip_part = STRIP * LANES, one = MAX_PARTS * part;
    const index_t kind = p->chunk * strip_part; /* of the coefficients cc, cs, sc, ss */
    const int row_sine = u >= 1 && u <= p->rows->sines;
    float *left = scratch(2 * slots * size + (2 * p->chunk * one) + MAX_PARTS * strip_part +
                          4 * kind + 128);
    float *stage = take(&left, 2 * slots * size);
    float *x = take(&left, p->chunk * one), *g = take(&left, p->chunk * one);
    float *products = take(&left, MAX_PARTS * strip_part), *coefficients = take(&left, 4 * kind);
    memset(stage, 0, (size_t)(2 * slots * size) * sizeof(float));
    memset(g, 0, (size_t)(p->chunk * one) * sizeof(float)); /* lanes that are not there */

    for (index_t first_v = 0; first_v < p->columns->cosines; first_v += p->chunk) {
        const index_t last_v = least(first_v + p->chunk, p->columns->cosines);
        for (index_t v = first_v; v < last_v; v++)
            split_both(p, v - first_v, u, v, input_block, inputs, block, lanes, x, g);
        for (index_t first = 0; first < inputs; first += STRIP) {
            const index_t count = least(inputs - first, STRIP);
            for (index_t v = first_v; v < last_v; v++) {
                const bin b = bin_at(p->rows, p->columns, u, v);
                const index_t at = (v - first_v) * one;
                for (int n = 0; n < b.parts; n++)
                    multiply(count, computed, p->batch, x + at + n * part + first, 1, LANES,
                             g + at + n * part, LANES, products + n * strip_part, LANES, 0);
                coefficients_of(&b, products, strip_part, count * LANES,
                                coefficients + (v - first_v) * strip_part, kind);
            }
            for (int sine = 0; sine <= row_sine; sine++) {
                const float *from = coefficients + 2 * sine * kind;
                add_to_slots(p->taps_axis, p->columns, first_v, last_v, from, from + kind,
                             strip_part, count * LANES,
                             stage + sine * slots * size + first * LANES, size);
            }
        }
    }
    for (int sine = 0; sine <= row_sine; sine++) {
        const index_t row = sine ? p->rows->cosines + u - 1 : u;
        for (index_t c = 0; c < slots; c++) {
            const float *from = stage + (sine * slots + c) * size;
            float *to = p->taps + ((block * frequencies(p->rows) + row) * slots + c) * p->inputs *
                                      LANES + input_block * LANES * LANES;
            memcpy(to, from, (size_t)size * sizeof(float));
        }
    }
}

/* The gradient of packed taps from the spectra of the input and of the output's gradient. */
EXPORTED void passband_correlate(const float *x, index_t x_row, index_t inputs, const float *g,
                                 index_t g_row, index_t g_image, index_t outputs, index_t batch,
                                 const axis *rows, const axis *columns, const axis *taps_axis,
                                 float *taps, index_t threads) {
    /* their spectra stay in the second cache, and every slot is read and written once for all */
    index_t chunk = least(2 * CACHED / (2 * MAX_PARTS * batch * LANES), columns->cosines);
    if (chunk < 1) chunk = 1;
    correlate_arguments p = {x, g, x_row, g_row, batch, inputs, outputs, g_image, rows, columns,
                             taps_axis, taps, chunk};
    in_parallel(correlate_task, &p,
                ((outputs + LANES - 1) / LANES) * ((inputs + LANES - 1) / LANES) * rows->cosines,
                threads);
}
