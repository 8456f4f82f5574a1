/* The product over channels of complex spectra and filters, frequency by frequency, and its gradients:
 * in Python that is ../product.py, which names the formulas.
 *
 * Taps at opposite places share a slot, in which there are their sum and their difference: at a
 * frequency, a filter is sum_e cosine[e] even[e] + i sum_d sine[d] odd[d]. It is transformed anew for
 * every frequency, for as many terms of the product as stay in the cache with it.
 */
#include "core.h"

#define DEPTH 64 /* terms of a product at a time */
#define STRIP 48 /* outputs at a time in the filters' gradient */
#define CHUNK 8  /* frequencies at a time, there and in a task of the product */
#define TERMS 16 /* of which filters are folded at a time */

/* Element (part, frequency, image, channel); part 0 is the real one. Channels lie side by side. */
typedef struct {
    float *data;
    index_t part, frequency, image;
} spectrum;

/* Slots come in the order: pairs of taps, single ones, and last the one in the middle, which has no
 * sine. */
typedef struct {
    index_t taps, pairs, even, odd;
    const int32_t *first, *second; /* tap of each even slot; the opposite one of each pair */
    const float *cosine, *sine;    /* (frequencies, even) and (frequencies, odd) */
} tap_tables;

INLINE index_t slots_of(const tap_tables *t) { return t->even + t->odd; }

typedef struct {
    index_t frequencies, images;
    const uint8_t *active; /* (frequencies): whether the product is not zero */
} extent;

INLINE const float *row_of(const spectrum *s, index_t frequency, index_t image) {
    return s->data + frequency * s->frequency + image * s->image;
}

/* Xr, Xi and Xr + Xi of some channels of all images, with `sign` -1 of the conjugates. */
static void split(const spectrum *s, index_t frequency, index_t images, index_t first, index_t count,
                  float sign, float *to, index_t row, index_t part) {
    for (index_t n = 0; n < images; n++) {
        const float *re = row_of(s, frequency, n) + first, *im = re + s->part;
        float *at = to + n * row;
#define SPLIT(type, get, put)                                                                     \
    type real = get(re + i), imag = sign * get(im + i);                                           \
    put(at + i, real);                                                                            \
    put(at + part + i, imag);                                                                     \
    put(at + 2 * part + i, real + imag);
        FOR_EACH(i, count, SPLIT)
#undef SPLIT
    }
}

/* Of three products P2 = Xr (Li - Lr), P3 = Xi (Lr + Li), P1 = (Xr + Xi) Lr the real and imaginary
 * part of X L. */
INLINE void join(const float *products, index_t part, index_t count, float *re, float *im) {
#define JOIN(type, get, put)                                                                      \
    type sum = get(products + 2 * part + i);                                                      \
    put(im + i, sum + get(products + i));                                                         \
    put(re + i, sum - get(products + part + i));
    FOR_EACH(i, count, JOIN)
#undef JOIN
}

/* ---- which frequencies there are ------------------------------------------------------------------ */

typedef struct {
    spectrum s;
    index_t images, channels;
    uint8_t *active;
} active_arguments;

static int is_nonzero(const float *from, index_t count) {
    for (index_t i = 0; i < count; i++)
        if (from[i] != 0) return 1;
    return 0;
}

static void active_task(const void *pointer, index_t frequency) {
    const active_arguments *a = pointer;
    int found = 0;
    for (index_t n = 0; n < a->images && !found; n++) {
        const float *row = row_of(&a->s, frequency, n);
        found = is_nonzero(row, a->channels) || is_nonzero(row + a->s.part, a->channels);
    }
    a->active[frequency] = (uint8_t)found;
}

/* Frequencies that are not zero in all images and channels. */
EXPORTED void passband_active(const spectrum *s, index_t frequencies, index_t images, index_t channels,
                              uint8_t *active, index_t threads) {
    const active_arguments a = {*s, images, channels, active};
    in_parallel(active_task, &a, frequencies, threads);
}

/* ---- filters, folded -------------------------------------------------------------------------------- */

typedef struct {
    const float *weight, *end; /* where the filters end */
    index_t lanes, terms, lane_stride, term_stride, row;
    const tap_tables *taps;
    float *to; /* [block of lanes][slot][term][row] */
} fold_arguments;

static void fold_task(const void *pointer, index_t task) {
    const fold_arguments *p = pointer;
    const tap_tables *t = p->taps;
    const index_t groups = (p->terms + TERMS - 1) / TERMS, slots = slots_of(t), row = p->row;
    const index_t block = task / groups, first = task % groups * TERMS;
    const index_t count = least(p->terms - first, TERMS), last_lane = p->lanes - 1 - block * row;
    float *near = scratch(TERMS * t->taps * LANES); /* [term][tap][LANES] */
    const float *from = p->weight + block * row * p->lane_stride + first * p->term_stride;
    const int together = p->term_stride == t->taps; /* the terms of a lane lie one after the other */
    const index_t runs = together ? 1 : count, columns = together ? count * t->taps : t->taps;
    for (index_t run = 0; run < runs; run++)
        for (index_t l = 0; l < row; l += WIDTH) {
            const float *lane[WIDTH]; /* lanes that are not there repeat the last */
            for (index_t i = 0; i < WIDTH; i++)
                lane[i] = from + run * p->term_stride + least(l + i, last_lane) * p->lane_stride;
            transpose_in(lane, columns, p->end - lane[WIDTH - 1], 0, near + run * columns * LANES + l);
        }
    for (index_t s = 0; s < t->even; s++)
        for (index_t n = 0; n < count; n++) {
            const float *own = near + n * t->taps * LANES, *a = own + t->first[s] * LANES;
            const float *b = s < t->pairs ? own + t->second[s] * LANES : NULL;
            float *even = p->to + ((block * slots + s) * p->terms + first + n) * row;
            float *odd = even + t->even * p->terms * row;
            for (index_t i = 0; i < row; i += WIDTH) {
                vector left = load(a + i), right = b ? load(b + i) : (vector){0};
                store(even + i, left + right);
                if (s < t->odd) store(odd + i, left - right);
            }
        }
}

/* Slots of filters, in rows of the product's lanes; numbers of lanes that are not there are any. */
EXPORTED void passband_fold_taps(const float *weight, const float *end, index_t lanes, index_t terms,
                                 index_t lane_stride, index_t term_stride, const tap_tables *taps,
                                 float *to, index_t row, index_t threads) {
    const fold_arguments p = {weight, end, lanes, terms, lane_stride, term_stride, row, taps, to};
    const index_t blocks = (lanes + row - 1) / row;
    in_parallel(fold_task, &p, blocks * ((terms + TERMS - 1) / TERMS), threads);
}

typedef struct {
    const float *slots; /* [range][slot][output][input] */
    index_t ranges, outputs, inputs;
    const tap_tables *taps;
    float *gradient; /* [output][input][tap] */
} unfold_arguments;

static void unfold_task(const void *pointer, index_t output) {
    const unfold_arguments *p = pointer;
    const tap_tables *t = p->taps;
    const index_t slots = slots_of(t), slot = p->outputs * p->inputs;
    float *near = scratch(t->taps * LANES); /* [tap][LANES] */
    for (index_t c = 0; c < p->inputs; c += WIDTH) {
        const index_t count = least(p->inputs - c, WIDTH);
        for (index_t s = 0; s < t->even; s++) {
            float *first = near + t->first[s] * LANES;
            float *second = s < t->pairs ? near + t->second[s] * LANES : NULL;
            for (index_t i = 0; i < count; i++) {
                float even = 0, odd = 0;
                for (index_t r = 0; r < p->ranges; r++) {
                    const float *at = p->slots + (r * slots + s) * slot + output * p->inputs + c + i;
                    even += at[0];
                    if (s < t->odd) odd += at[t->even * slot];
                }
                first[i] = even + odd;
                if (second) second[i] = even - odd;
            }
        }
        float *to[WIDTH];
        for (index_t i = 0; i < WIDTH; i++)
            to[i] = p->gradient + (output * p->inputs + c + least(i, count - 1)) * t->taps;
        transpose_out(near, t->taps, count, to);
    }
}

/* ---- the product ---------------------------------------------------------------------------------- */

typedef struct {
    spectrum x, y;
    extent over;
    index_t terms, lanes, row; /* of the product; numbers of a row of the filters */
    tap_tables taps;
    const float *filters; /* [block of lanes][slot][term][row] */
    float sign;           /* -1: with the conjugates of the filters */
} spectral_arguments;

/* Li - Lr, Lr + Li and Lr of `size` numbers of the filters, whose slots are `slot` apart. */
INLINE void filter_parts_of(const float *cosine, const float *sine, float sign, const float *from,
                            index_t slot, index_t size, float *to, index_t part, const index_t even,
                            const index_t odd) {
    for (index_t i = 0; i < size; i += WIDTH) {
        vector real = {0}, imag = {0};
        for (index_t e = 0; e < even; e++) real += cosine[e] * load(from + e * slot + i);
        for (index_t o = 0; o < odd; o++) imag += sine[o] * load(from + (even + o) * slot + i);
        imag *= sign;
        store(to + i, imag - real);
        store(to + part + i, real + imag);
        store(to + 2 * part + i, real);
    }
}

static void filter_parts(const spectral_arguments *p, index_t frequency, const float *from,
                         index_t slot, index_t size, float *to, index_t part) {
    const index_t even = p->taps.even, odd = p->taps.odd;
    const float *cosine = p->taps.cosine + frequency * even, *sine = p->taps.sine + frequency * odd;
    /* with the slots of 3, 5 and 3x3 taps known to the compiler */
#define SLOTS(e, o)                                                                               \
    if (even == e && odd == o) {                                                                  \
        filter_parts_of(cosine, sine, p->sign, from, slot, size, to, part, e, o);                 \
        return;                                                                                   \
    }
    SLOTS(2, 1)
    SLOTS(3, 2)
    SLOTS(5, 4)
#undef SLOTS
    filter_parts_of(cosine, sine, p->sign, from, slot, size, to, part, even, odd);
}

static void spectral_task(const void *pointer, index_t task) {
    const spectral_arguments *p = pointer;
    const index_t images = p->over.images, row = p->row, blocks = (p->lanes + row - 1) / row;
    const index_t block = task % blocks, first_f = task / blocks * CHUNK;
    const index_t last_f = least(first_f + CHUNK, p->over.frequencies);
    const index_t lanes = least(p->lanes - block * row, row), computed = whole_vectors(lanes);
    const index_t slot = p->terms * row;
    const index_t x_part = images * DEPTH, filter_part = DEPTH * row, product_part = images * row;
    float *left = scratch(3 * (x_part + filter_part + product_part) + 64);
    float *x = take(&left, 3 * x_part), *filters = take(&left, 3 * filter_part);
    float *products = take(&left, 3 * product_part);
    const float *own = p->filters + block * slots_of(&p->taps) * slot;
    for (index_t f = first_f; f < last_f; f++) {
        for (index_t first = 0; first < p->terms && p->over.active[f]; first += DEPTH) {
            const index_t depth = least(p->terms - first, DEPTH);
            filter_parts(p, f, own + first * row, slot, depth * row, filters, filter_part);
            split(&p->x, f, images, first, depth, 1, x, DEPTH, x_part);
            for (int part = 0; part < 3; part++)
                multiply(images, computed, depth, x + part * x_part, DEPTH, 1,
                         filters + part * filter_part, row, products + part * product_part, row,
                         first > 0);
        }
        for (index_t n = 0; n < images; n++) {
            float *re = (float *)row_of(&p->y, f, n) + block * row, *im = re + p->y.part;
            if (p->over.active[f]) {
                join(products + n * row, product_part, lanes, re, im);
            } else {
                memset(re, 0, (size_t)lanes * sizeof(float));
                memset(im, 0, (size_t)lanes * sizeof(float));
            }
        }
    }
}

/* The product of a spectrum's channels and filters, to another spectrum. */
EXPORTED void passband_spectral_product(const spectrum *x, const spectrum *y, index_t frequencies,
                                        index_t images, const uint8_t *active, index_t terms,
                                        index_t lanes, index_t row, const tap_tables *taps,
                                        const float *filters, float sign, index_t threads) {
    const spectral_arguments p = {*x, *y, {frequencies, images, active}, terms, lanes, row, *taps,
                                  filters, sign};
    const index_t chunks = (frequencies + CHUNK - 1) / CHUNK;
    in_parallel(spectral_task, &p, chunks * ((lanes + row - 1) / row), threads);
}

/* ---- the filters' gradient -------------------------------------------------------------------------- */

typedef struct {
    spectrum x, g;
    extent over;
    index_t inputs, outputs, ranges; /* ranges of frequencies, of which each has its own sums */
    tap_tables taps;
    float *slots; /* [range][slot][output][input] */
} gradient_arguments;

/* The gradients of a few frequencies' filters, which are still to be added to the slots. */
typedef struct {
    index_t count, size; /* frequencies; numbers of each part of one */
    float *parts, *cosine, *sine;
} pending;

static void add_pending(const tap_tables *taps, pending *p, index_t lanes, float *sums) {
    multiply(taps->even, lanes, p->count, p->cosine, 1, taps->even, p->parts, 2 * p->size, sums,
             p->size, 1);
    multiply(taps->odd, lanes, p->count, p->sine, 1, taps->odd, p->parts + p->size, 2 * p->size,
             sums + taps->even * p->size, p->size, 1);
    p->count = 0;
}

static void gradient_task(const void *pointer, index_t task) {
    const gradient_arguments *p = pointer;
    const index_t blocks = (p->inputs + LANES - 1) / LANES;
    const index_t strips = (p->outputs + STRIP - 1) / STRIP;
    const index_t block = task % blocks * LANES, strip = task / blocks % strips * STRIP;
    const index_t range = task / blocks / strips, images = p->over.images;
    const index_t first_f = p->over.frequencies * range / p->ranges;
    const index_t last_f = p->over.frequencies * (range + 1) / p->ranges;
    const index_t lanes = least(p->inputs - block, LANES), computed = whole_vectors(lanes);
    const index_t count = least(p->outputs - strip, STRIP);
    const index_t slots = slots_of(&p->taps), size = STRIP * LANES;
    const index_t x_part = images * LANES, g_row = whole_vectors(count), g_part = images * g_row;
    float *left = scratch(3 * (x_part + g_part + size) + 2 * CHUNK * size + slots * (size + CHUNK) +
                          128);
    float *x = take(&left, 3 * x_part), *g = take(&left, 3 * g_part);
    float *products = take(&left, 3 * size), *sums = take(&left, slots * size);
    pending some = {0, size, take(&left, 2 * CHUNK * size), take(&left, CHUNK * p->taps.even),
                    take(&left, CHUNK * p->taps.odd)};
    memset(sums, 0, (size_t)(slots * size) * sizeof(float));
    memset(x, 0, (size_t)(3 * x_part) * sizeof(float)); /* lanes that are not there */

    for (index_t f = first_f; f < last_f; f++) {
        if (!p->over.active[f]) continue;
        split(&p->x, f, images, block, lanes, -1, x, LANES, x_part);
        split(&p->g, f, images, strip, count, 1, g, g_row, g_part);
        for (index_t i = 0; i < g_part; i++) { /* Gi - Gr, Gr + Gi and Gr */
            const float real = g[i], imag = g[g_part + i];
            g[i] = imag - real;
            g[g_part + i] = real + imag;
            g[2 * g_part + i] = real;
        }
        for (int part = 0; part < 3; part++)
            multiply(count, computed, images, g + part * g_part, 1, g_row, x + part * x_part, LANES,
                     products + part * size, LANES, 0);
        float *re = some.parts + 2 * some.count * size;
        join(products, size, count * LANES, re, re + size);
        memcpy(some.cosine + some.count * p->taps.even, p->taps.cosine + f * p->taps.even,
               (size_t)p->taps.even * sizeof(float));
        memcpy(some.sine + some.count * p->taps.odd, p->taps.sine + f * p->taps.odd,
               (size_t)p->taps.odd * sizeof(float));
        if (++some.count == CHUNK) add_pending(&p->taps, &some, count * LANES, sums);
    }
    add_pending(&p->taps, &some, count * LANES, sums);
    for (index_t s = 0; s < slots; s++)
        for (index_t o = 0; o < count; o++)
            memcpy(p->slots + ((range * slots + s) * p->outputs + strip + o) * p->inputs + block,
                   sums + s * size + o * LANES, (size_t)lanes * sizeof(float));
}

/* The filters' gradient from a spectrum and the product's gradient. */
EXPORTED void passband_spectral_gradient(const spectrum *x, const spectrum *g, index_t frequencies,
                                         index_t images, const uint8_t *active, index_t inputs,
                                         index_t outputs, const tap_tables *taps, index_t ranges,
                                         float *slots, float *gradient, index_t threads) {
    const gradient_arguments p = {*x, *g, {frequencies, images, active}, inputs, outputs, ranges,
                                  *taps, slots};
    const unfold_arguments u = {slots, ranges, outputs, inputs, taps, gradient};
    const index_t blocks = (inputs + LANES - 1) / LANES, strips = (outputs + STRIP - 1) / STRIP;
    in_parallel(gradient_task, &p, ranges * blocks * strips, threads);
    in_parallel(unfold_task, &u, outputs, threads);
}
