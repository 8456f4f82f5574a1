/* Band-limited convolution in float32: truncated real Fourier transforms, and the product of maps
 * and filters frequency by frequency. The mathematics is in ../README.md; the shapes and tables come
 * from ../native.py. Plain C with vector extensions (GCC, Clang), no header of Python or PyTorch.
 *
 * Everything heavy is one small matrix product, `multiply`: a matrix of scalars times rows of LANES
 * contiguous numbers. In the transforms a lane is a map (one channel of one image), in the products
 * over channels it is an output channel.
 */
#define _GNU_SOURCE /* madvise */
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__AVX512F__)
#define WIDTH 16 /* numbers in a register */
#define TILE_VECTORS 4
#elif defined(__AVX2__)
#define WIDTH 8
#define TILE_VECTORS 2
#else
#define WIDTH 4
#define TILE_VECTORS 2
#endif
#define TILE_ROWS 6   /* TILE_ROWS * TILE_VECTORS sums stay in registers */
#define LANES 64      /* numbers in a row */
#define DEPTH 64      /* terms of a product over channels at a time: their rows fit the first cache */
#define FLAT 256      /* points of a map that is taken into lanes as a whole */
#define STRIP 12      /* rows of the filters' gradient at a time */
#define CACHED (64 << 10) /* numbers that stay in the second cache between two uses */
#define MAX_PARTS 6   /* three real products for each of two complex numbers */

typedef float vector __attribute__((vector_size(4 * WIDTH)));
typedef float loose_vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int64_t index_t;

#define INLINE static inline __attribute__((always_inline))

INLINE vector load(const float *from) { return *(const loose_vector *)from; }
INLINE void store(float *to, vector value) { *(loose_vector *)to = value; }
INLINE float get_one(const float *from) { return *from; }
INLINE void put_one(float *to, float value) { *to = value; }
INLINE index_t least(index_t a, index_t b) { return a < b ? a : b; }
INLINE index_t whole_vectors(index_t n) { return (n + WIDTH - 1) / WIDTH * WIDTH; }

/* BODY(type, get, put) for each i below `count`: in whole registers, then one by one. */
#define FOR_EACH(i, count, BODY)                                                                  \
    index_t i = 0;                                                                                \
    for (; i + WIDTH <= count; i += WIDTH) {                                                      \
        BODY(vector, load, store)                                                                 \
    }                                                                                             \
    for (; i < count; i++) {                                                                      \
        BODY(float, get_one, put_one)                                                             \
    }

/* One axis: points that share a cosine up to a sign of the sine are folded into one slot.
 * Slots come in the order: pairs (first, second), singles that have a sine, singles that have none. */
typedef struct {
    index_t points, pairs, odd_slots, slots; /* pairs <= odd_slots <= slots */
    index_t cosines, sines;                  /* frequencies that have one */
    const int32_t *first, *second;           /* point of each slot; second only of the pairs */
    const float *cosine, *sine;              /* (cosines, slots) and (sines, odd_slots) */
} axis;

/* Maps anywhere in memory: element (b, c, i, j) at data[b s0 + c s1 + i s2 + j s3]. */
typedef struct {
    float *data;
    index_t channels, batch_stride, channel_stride, row_stride, column_stride;
} maps;

/* ---- threads ------------------------------------------------------------------------------- */

typedef struct {
    void (*run)(const void *arguments, index_t task);
    const void *arguments;
    index_t tasks;
    index_t next;
} work;

static void take_tasks(void *pointer) {
    work *shared = pointer;
    for (;;) {
        index_t task = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED);
        if (task >= shared->tasks) return;
        shared->run(shared->arguments, task);
    }
}

static void *take_tasks_in_thread(void *pointer) {
    take_tasks(pointer);
    return NULL;
}

/* On the threads of the OpenMP runtime that PyTorch has loaded, or on new ones where it has none. */
static void in_parallel(void (*run)(const void *, index_t), const void *arguments, index_t tasks,
                        index_t threads) {
    static void (*team)(void (*)(void *), void *, unsigned, unsigned);
    static int searched;
    work shared = {run, arguments, tasks, 0};
    threads = least(threads, tasks);
    if (threads <= 1) {
        take_tasks(&shared);
        return;
    }
    if (!__atomic_load_n(&searched, __ATOMIC_ACQUIRE)) {
        *(void **)&team = dlsym(RTLD_DEFAULT, "GOMP_parallel");
        __atomic_store_n(&searched, 1, __ATOMIC_RELEASE);
    }
    if (team) {
        team(take_tasks, &shared, (unsigned)threads, 0);
        return;
    }
    pthread_t started[64];
    index_t count = 0;
    while (count < least(threads - 1, 64) &&
           pthread_create(&started[count], NULL, take_tasks_in_thread, &shared) == 0)
        count++;
    take_tasks(&shared);
    while (count > 0) pthread_join(started[--count], NULL);
}

static pthread_key_t scratch_key;
static void make_scratch_key(void) { pthread_key_create(&scratch_key, free); }

/* Memory of one task, kept by its thread for the next one: pages are touched for the first time
 * once. It is freed when the thread ends. */
static float *scratch(index_t count) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static __thread float *kept;
    static __thread index_t size;
    if (count > size) {
        pthread_once(&once, make_scratch_key);
        free(kept);
        size = 0;
        if (posix_memalign((void **)&kept, 64, (size_t)count * sizeof(float)) != 0) abort();
        pthread_setspecific(scratch_key, kept);
        size = count;
    }
    return kept;
}

static float *take(float **scratch_left, index_t count) {
    float *taken = *scratch_left;
    *scratch_left += (count + 15) / 16 * 16;
    return taken;
}

/* Ask for large pages: fresh memory is then first touched in a quarter of the time, and rows far apart
 * cost no more than rows side by side. */
void passband_advise(void *memory, index_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 2 << 20;
    const uintptr_t first = ((uintptr_t)memory + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)memory + (uintptr_t)bytes) / page * page;
    if (end > first) madvise((void *)first, end - first, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

/* ---- the small matrix product ---------------------------------------------------------------- */

INLINE void multiply_tile(const int rows, const int vectors, index_t terms, const float *a,
                          index_t a_row, index_t a_term, const float *b, index_t b_term, float *c,
                          index_t c_row, int accumulate) {
    vector sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++)
            sum[i][j] = accumulate ? load(c + i * c_row + j * WIDTH) : (vector){0};
    for (index_t k = 0; k < terms; k++) {
        vector right[TILE_VECTORS];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) right[j] = load(b + j * WIDTH);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            float left = a[i * a_row];
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) sum[i][j] += left * right[j];
        }
        a += a_term;
        b += b_term;
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) store(c + i * c_row + j * WIDTH, sum[i][j]);
}

#define ROWS(rows)                                                                                \
    case rows:                                                                                    \
        multiply_tile(rows, vectors, terms, a, a_row, a_term, b, b_term, c, c_row, accumulate);   \
        break;

INLINE void multiply_rows(index_t rows, const int vectors, index_t terms, const float *a,
                          index_t a_row, index_t a_term, const float *b, index_t b_term, float *c,
                          index_t c_row, int accumulate) {
    switch (rows) { ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) }
}

/* c[i][lane] (+)= sum_k a[i a_row + k a_term] b[k][lane], for `lanes` a multiple of WIDTH. */
static void multiply(index_t rows, index_t lanes, index_t terms, const float *a, index_t a_row,
                     index_t a_term, const float *b, index_t b_term, float *c, index_t c_row,
                     int accumulate) {
    index_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (index_t lane = 0; lane < lanes;) {
        index_t vectors = least((lanes - lane) / WIDTH, TILE_VECTORS);
        index_t row = 0;
        for (index_t tile = 0; tile < tiles; tile++) {
            index_t size = (rows - row + tiles - tile - 1) / (tiles - tile); /* of even size */
            const float *left = a + row * a_row;
            float *to = c + row * c_row + lane;
#define VECTORS(n)                                                                                \
    case n:                                                                                       \
        multiply_rows(size, n, terms, left, a_row, a_term, b + lane, b_term, to, c_row,           \
                      accumulate);                                                                \
        break;
            switch (vectors) {
                VECTORS(1)
                VECTORS(2)
#if TILE_VECTORS > 2
                VECTORS(3)
                VECTORS(4)
#endif
            }
            row += size;
        }
        lane += vectors * WIDTH;
    }
}

/* ---- folding: x[n] + x[N-n] for the cosines, x[n] - x[N-n] for the sines ----------------------- */

/* Rows of `size` numbers from points to slots: even (slots) and odd (odd_slots). */
static void fold(const axis *ax, index_t size, const float *points, float *even, float *odd) {
    for (index_t s = 0; s < ax->slots; s++) {
        const float *first = points + ax->first[s] * size;
        if (s < ax->pairs) {
            const float *second = points + ax->second[s] * size;
            for (index_t i = 0; i < size; i++) {
                even[s * size + i] = first[i] + second[i];
                odd[s * size + i] = first[i] - second[i];
            }
        } else {
            memcpy(even + s * size, first, (size_t)size * sizeof(float));
            if (s < ax->odd_slots) memcpy(odd + s * size, first, (size_t)size * sizeof(float));
        }
    }
}

/* The inverse, and the adjoint: from slots to points. */
static void unfold(const axis *ax, index_t size, const float *even, const float *odd,
                   float *points) {
    for (index_t s = 0; s < ax->slots; s++) {
        const float *e = even + s * size, *o = odd + s * size;
        float *first = points + ax->first[s] * size;
        if (s < ax->pairs) {
            float *second = points + ax->second[s] * size;
            for (index_t i = 0; i < size; i++) {
                first[i] = e[i] + o[i];
                second[i] = e[i] - o[i];
            }
        } else if (s < ax->odd_slots) {
            for (index_t i = 0; i < size; i++) first[i] = e[i] + o[i];
        } else {
            memcpy(first, e, (size_t)size * sizeof(float));
        }
    }
}

/* ---- rows of maps in and out of lanes --------------------------------------------------------- */

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t selection __attribute__((vector_size(4 * WIDTH)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (selection){__VA_ARGS__})
#endif

/* Exchange the off-diagonal blocks of `distance` numbers of every two rows `distance` apart. */
#define EXCHANGE(distance, low, high)                                                             \
    for (int i = 0; i < WIDTH; i++)                                                               \
        if (!(i & distance)) {                                                                    \
            vector a = v[i], b = v[i + distance];                                                 \
            v[i] = SHUFFLE(a, b, low);                                                            \
            v[i + distance] = SHUFFLE(a, b, high);                                                \
        }
#define LIST(...) __VA_ARGS__

INLINE void transpose_square(vector v[WIDTH]) {
#if WIDTH == 16
#pragma GCC unroll 16
    EXCHANGE(8, LIST(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
             LIST(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#pragma GCC unroll 16
    EXCHANGE(4, LIST(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
             LIST(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
#pragma GCC unroll 16
    EXCHANGE(2, LIST(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
             LIST(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
#pragma GCC unroll 16
    EXCHANGE(1, LIST(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
             LIST(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
#elif WIDTH == 8
#pragma GCC unroll 8
    EXCHANGE(4, LIST(0, 1, 2, 3, 8, 9, 10, 11), LIST(4, 5, 6, 7, 12, 13, 14, 15))
#pragma GCC unroll 8
    EXCHANGE(2, LIST(0, 1, 8, 9, 4, 5, 12, 13), LIST(2, 3, 10, 11, 6, 7, 14, 15))
#pragma GCC unroll 8
    EXCHANGE(1, LIST(0, 8, 2, 10, 4, 12, 6, 14), LIST(1, 9, 3, 11, 5, 13, 7, 15))
#else
#pragma GCC unroll 4
    EXCHANGE(2, LIST(0, 1, 4, 5), LIST(2, 3, 6, 7))
#pragma GCC unroll 4
    EXCHANGE(1, LIST(0, 4, 2, 6), LIST(1, 5, 3, 7))
#endif
}

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

/* to[j][i] = from[i][j] for j below `columns`, where up to `readable` may be read. */
static void transpose_in(const float *const from[WIDTH], index_t columns, index_t readable,
                         index_t ahead, float *to) {
    for (index_t j = 0; j < columns; j += WIDTH) {
        if (j + WIDTH > columns && columns >= WIDTH) j = columns - WIDTH; /* once more, in part */
        const index_t kept = least(columns - j, WIDTH);
        if (j + WIDTH <= readable) {
            vector v[WIDTH];
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++) {
                v[i] = load(from[i] + j);
                __builtin_prefetch(from[i] + j + ahead);
            }
            transpose_square(v);
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++) {
                if (i == kept) break;
                store(to + (j + i) * LANES, v[i]);
            }
        } else {
            for (; j < columns; j++)
                for (int i = 0; i < WIDTH; i++) to[j * LANES + i] = from[i][j];
        }
    }
}

INLINE void store_part(float *to, vector value, index_t count) {
    float numbers[WIDTH];
    memcpy(numbers, &value, sizeof numbers);
    const float *from = numbers;
#define PART(n)                                                                                   \
    if (count & n) {                                                                              \
        memcpy(to, from, n * sizeof(float));                                                      \
        to += n;                                                                                  \
        from += n;                                                                                \
    }
    PART(8) PART(4) PART(2) PART(1)
#undef PART
}

/* to[i][j] = from[j][i] for j below `columns`, for the first `count` of the rows. */
static void transpose_out(const float *from, index_t columns, index_t count,
                          float *const to[WIDTH]) {
    for (index_t j = 0; j < columns; j += WIDTH) {
        if (j + WIDTH > columns && columns >= WIDTH) j = columns - WIDTH; /* once more, in part */
        const index_t kept = least(columns - j, WIDTH);
        vector v[WIDTH];
#pragma GCC unroll 16
        for (int i = 0; i < WIDTH; i++) v[i] = load(from + (j + (i < kept ? i : 0)) * LANES);
        transpose_square(v);
        if (kept == WIDTH && count == WIDTH)
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++) store(to[i] + j, v[i]);
        else
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++) {
                if (i == count) break;
                if (kept == WIDTH) store(to[i] + j, v[i]);
                else store_part(to[i] + j, v[i], kept);
            }
    }
}

/* Columns of a row of each of `lanes` maps, side by side in `to`; the row after it is `next`. */
static void load_row(const maps *m, index_t plane, index_t lanes, index_t row, index_t next,
                     index_t columns, float *to) {
    const index_t ahead = (next - row) * m->row_stride;
    for (index_t l = 0; l < lanes; l += WIDTH) {
        const float *from[WIDTH];
        const index_t count = least(lanes - l, WIDTH);
        for (index_t i = 0; i < WIDTH; i++)
            from[i] = row_of_plane(m, plane + l + least(i, count - 1), row);
        if (m->column_stride == 1)
            transpose_in(from, columns, columns, ahead, to + l);
        else
            for (index_t j = 0; j < columns; j++)
                for (index_t i = 0; i < WIDTH; i++)
                    to[j * LANES + l + i] = from[i][j * m->column_stride];
    }
}

static void store_row(const maps *m, index_t plane, index_t lanes, index_t row, index_t columns,
                      const float *from) {
    for (index_t l = 0; l < lanes; l += WIDTH) {
        float *to[WIDTH];
        const index_t count = least(lanes - l, WIDTH);
        for (index_t i = 0; i < count; i++) to[i] = row_of_plane(m, plane + l + i, row);
        if (m->column_stride == 1)
            transpose_out(from + l, columns, count, to);
        else
            for (index_t j = 0; j < columns; j++)
                for (index_t i = 0; i < count; i++)
                    to[i][j * m->column_stride] = from[j * LANES + l + i];
    }
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

typedef struct {
    const maps *maps;
    index_t planes;
    const axis *rows, *columns;
    float *spectrum;
    index_t spectrum_row; /* numbers from one frequency to the next */
} transform_arguments;

static index_t frequencies(const axis *ax) { return ax->cosines + ax->sines; }

/* Memory of a transform of LANES maps. */
typedef struct {
    float *first, *second; /* rows of points, or all rows where the map is `flat` */
    folded_rows folded;    /* both rows, from points to slots along the columns */
    float *even, *odd;     /* slots along the rows, frequencies along the columns */
    float *spectrum;       /* one column, or all where `whole` */
} transform_memory;

/* Whether the map is taken into lanes as a whole: then no row is too short for a register. */
static int is_flat(const transform_arguments *t) {
    return t->maps->column_stride == 1 && t->maps->row_stride == t->columns->points &&
           t->rows->points * t->columns->points <= FLAT;
}

static transform_memory memory_of(const transform_arguments *t, int whole) {
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

static void analyze_task(const void *pointer, index_t task) {
    const transform_arguments *t = pointer;
    const axis *rows = t->rows, *columns = t->columns;
    const index_t plane = task * LANES, lanes = least(t->planes - plane, LANES);
    const index_t computed = whole_vectors(lanes), width = frequencies(columns);
    const index_t line = width * LANES;
    const int whole = computed == lanes, in_place = lanes_are_contiguous(t->maps, lanes);
    const int flat = !in_place && is_flat(t);
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
    if (!whole)
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

static void synthesize_task(const void *pointer, index_t task) {
    const transform_arguments *t = pointer;
    const axis *rows = t->rows, *columns = t->columns;
    const index_t plane = task * LANES, lanes = least(t->planes - plane, LANES);
    const index_t computed = whole_vectors(lanes), width = frequencies(columns);
    const index_t line = width * LANES;
    const int in_place = lanes_are_contiguous(t->maps, lanes), flat = !in_place && is_flat(t);
    const transform_memory m = memory_of(t, 0);
    lane_row first = row_in(m.first), second = row_in(m.second);

    for (index_t v = 0; v < width; v++) {
        for (index_t u = 0; u < frequencies(rows); u++)
            memcpy(m.spectrum + u * LANES, t->spectrum + (u * width + v) * t->spectrum_row + plane,
                   (size_t)lanes * sizeof(float));
        multiply(rows->slots, computed, rows->cosines, rows->cosine, 1, rows->slots, m.spectrum,
                 LANES, m.even + v * LANES, line, 0);
        multiply(rows->odd_slots, computed, rows->sines, rows->sine, 1, rows->odd_slots,
                 m.spectrum + rows->cosines * LANES, LANES, m.odd + v * LANES, line, 0);
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

void passband_analyze(const maps *from, index_t planes, const axis *rows, const axis *columns,
                      float *spectrum, index_t spectrum_row, index_t threads) {
    transform_arguments t = {from, planes, rows, columns, spectrum, spectrum_row};
    in_parallel(analyze_task, &t, (planes + LANES - 1) / LANES, threads);
}

void passband_synthesize(const maps *to, index_t planes, const axis *rows, const axis *columns,
                         float *spectrum, index_t spectrum_row, index_t threads) {
    transform_arguments t = {to, planes, rows, columns, spectrum, spectrum_row};
    in_parallel(synthesize_task, &t, (planes + LANES - 1) / LANES, threads);
}

/* ---- filters: transformed along the rows, folded along the columns -------------------------------- */

/* Filters in blocks of LANES channels, [lane block][row frequency][column slot][term][LANES]. Row
 * frequencies are those of a spectrum, cosines first; column slots are the even ones, then the odd.
 * Terms are the other channels, over which the product adds up. */
typedef struct {
    const float *weight, *end; /* from the first of the lanes; what may be read */
    float *gradient, *packed;
    int accumulate;
    index_t lanes, terms, lane_stride, term_stride;
    float sign; /* of the sines: -1 for the conjugate */
    const axis *rows, *columns;
} taps_arguments;

#define TERMS 16 /* of one task */

static index_t components(const axis *ax) { return ax->slots + ax->odd_slots; }

/* sum_s coefficient[s] from[s] of rows of `size` numbers. */
static void combine(const float *coefficient, index_t count, float sign, const float *from,
                    index_t size, float *to) {
    for (index_t i = 0; i < size; i += WIDTH) {
        vector sum = {0};
        for (index_t s = 0; s < count; s++) sum += coefficient[s] * load(from + s * size + i);
        store(to + i, sign * sum);
    }
}

typedef struct {
    index_t block, first, last, lanes; /* the terms from first to last of a block of lanes */
    index_t line;                      /* numbers of one row of folded taps */
    float *near, *half, *folded, *transformed;
} taps_task;

static taps_task taps_task_of(const taps_arguments *t, index_t task) {
    const index_t groups = (t->terms + TERMS - 1) / TERMS;
    const index_t line = components(t->columns) * LANES;
    const index_t taps = t->rows->points * t->columns->points * LANES;
    taps_task k = {.block = task / groups, .first = task % groups * TERMS, .line = line};
    k.last = least(k.first + TERMS, t->terms);
    k.lanes = least(t->lanes - k.block * LANES, LANES);
    float *left = scratch(taps + (t->rows->points + components(t->rows) + 1) * line + 128);
    k.near = take(&left, taps);
    k.half = take(&left, t->rows->points * line);
    k.folded = take(&left, components(t->rows) * line);
    k.transformed = take(&left, line);
    return k;
}

static void pack_taps_task(const void *pointer, index_t task) {
    const taps_arguments *t = pointer;
    const axis *rows = t->rows, *columns = t->columns;
    const taps_task k = taps_task_of(t, task);
    const index_t width = columns->points, taps = rows->points * width;
    for (index_t term = k.first; term < k.last; term++) {
        const float *from = t->weight + k.block * LANES * t->lane_stride + term * t->term_stride;
        for (index_t l = 0; l < LANES; l += WIDTH) {
            const float *lane[WIDTH]; /* lanes that are not there repeat the last */
            for (index_t i = 0; i < WIDTH; i++)
                lane[i] = from + least(l + i, k.lanes - 1) * t->lane_stride;
            transpose_in(lane, taps, t->end - lane[WIDTH - 1], 0, k.near + l);
        }
        for (index_t i = 0; i < rows->points; i++)
            fold(columns, LANES, k.near + i * width * LANES, k.half + i * k.line,
                 k.half + i * k.line + columns->slots * LANES);
        fold(rows, k.line, k.half, k.folded, k.folded + rows->slots * k.line);
        for (index_t u = 0; u < frequencies(rows); u++) {
            if (u < rows->cosines)
                combine(rows->cosine + u * rows->slots, rows->slots, 1, k.folded, k.line,
                        k.transformed);
            else
                combine(rows->sine + (u - rows->cosines) * rows->odd_slots, rows->odd_slots,
                        t->sign, k.folded + rows->slots * k.line, k.line, k.transformed);
            float *to = t->packed + ((k.block * frequencies(rows) + u) * components(columns) *
                                         t->terms + term) * LANES;
            for (index_t c = 0; c < components(columns); c++)
                memcpy(to + c * t->terms * LANES, k.transformed + c * LANES,
                       LANES * sizeof(float));
        }
    }
}

/* to[s] += coefficient[s] from, of rows of `size` numbers. */
static void spread(const float *coefficient, index_t count, const float *from, index_t size,
                   float *to) {
    for (index_t s = 0; s < count; s++)
        for (index_t i = 0; i < size; i += WIDTH)
            store(to + s * size + i, load(to + s * size + i) + coefficient[s] * load(from + i));
}

/* The adjoint of packing: the gradient of the filters. */
static void unpack_taps_task(const void *pointer, index_t task) {
    const taps_arguments *t = pointer;
    const axis *rows = t->rows, *columns = t->columns;
    const taps_task k = taps_task_of(t, task);
    const index_t width = columns->points, taps = rows->points * width;
    for (index_t term = k.first; term < k.last; term++) {
        memset(k.folded, 0, (size_t)(components(rows) * k.line) * sizeof(float));
        for (index_t u = 0; u < frequencies(rows); u++) {
            const float *from = t->packed + ((k.block * frequencies(rows) + u) *
                                                 components(columns) * t->terms + term) * LANES;
            for (index_t c = 0; c < components(columns); c++)
                memcpy(k.transformed + c * LANES, from + c * t->terms * LANES,
                       LANES * sizeof(float));
            if (u < rows->cosines)
                spread(rows->cosine + u * rows->slots, rows->slots, k.transformed, k.line,
                       k.folded);
            else
                spread(rows->sine + (u - rows->cosines) * rows->odd_slots, rows->odd_slots,
                       k.transformed, k.line, k.folded + rows->slots * k.line);
        }
        unfold(rows, k.line, k.folded, k.folded + rows->slots * k.line, k.half);
        for (index_t i = 0; i < rows->points; i++)
            unfold(columns, LANES, k.half + i * k.line,
                   k.half + i * k.line + columns->slots * LANES, k.near + i * width * LANES);
        float *to = t->gradient + k.block * LANES * t->lane_stride + term * t->term_stride;
        for (index_t l = 0; l < k.lanes; l += WIDTH) {
            float *lane[WIDTH];
            for (index_t i = 0; i < WIDTH; i++)
                lane[i] = to + least(l + i, k.lanes - 1) * t->lane_stride;
            if (t->accumulate)
                for (index_t tap = 0; tap < taps; tap++)
                    for (index_t i = 0; i < WIDTH; i++)
                        if (l + i < k.lanes) k.near[tap * LANES + l + i] += lane[i][tap];
            transpose_out(k.near + l, taps, least(k.lanes - l, WIDTH), lane);
        }
    }
}

static index_t taps_tasks(index_t lanes, index_t terms) {
    return (lanes + LANES - 1) / LANES * ((terms + TERMS - 1) / TERMS);
}

void passband_pack_taps(const float *weight, const float *end, index_t lanes, index_t terms,
                        index_t lane_stride, index_t term_stride, float sign, const axis *rows,
                        const axis *columns, float *packed, index_t threads) {
    taps_arguments t = {.weight = weight, .end = end, .packed = packed, .lanes = lanes, .terms = terms,
                        .lane_stride = lane_stride, .term_stride = term_stride, .sign = sign,
                        .rows = rows, .columns = columns};
    in_parallel(pack_taps_task, &t, taps_tasks(lanes, terms), threads);
}

void passband_unpack_taps(float *packed, index_t lanes, index_t terms, index_t lane_stride,
                          index_t term_stride, const axis *rows, const axis *columns,
                          float *gradient, int accumulate, index_t threads) {
    taps_arguments t = {.gradient = gradient, .accumulate = accumulate, .packed = packed, .lanes = lanes, .terms = terms,
                        .lane_stride = lane_stride, .term_stride = term_stride, .sign = 1,
                        .rows = rows, .columns = columns};
    in_parallel(unpack_taps_task, &t, taps_tasks(lanes, terms), threads);
}

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
void passband_product(const float *from, index_t from_row, index_t batch, index_t inputs, float *to,
                      index_t to_row, index_t to_image, index_t outputs, const axis *rows, const axis *columns,
                      const axis *taps_axis, const float *taps, float sign, const float *bias,
                      float bias_scale, index_t threads) {
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
} correlate_arguments;

/* The adjoint of `filter_parts`: from products of conjugates to the filters' cosine and sine. */
INLINE void gather_parts_of(const correlate_arguments *p, const bin *b, const float *products,
                            index_t part, index_t size, float *c, float *s, index_t stage_size,
                            const index_t even, const index_t odd) {
    const axis *ax = p->taps_axis;
    const float *cosine = ax->cosine + b->v * even, *sine = ax->sine + (b->v - 1) * odd;
    for (index_t i = 0; i < size; i += WIDTH) {
        vector cc, cs = {0}, sc = {0}, ss = {0};
        if (b->parts == 1) {
            cc = load(products + i);
        } else {
            vector p2 = load(products + i), p3 = load(products + part + i);
            vector p1 = load(products + 2 * part + i);
            vector real = p1 - p3, imag = p1 + p2;
            cc = real;
            if (b->parts == 3) {
                if (b->row_sine) sc = imag;
                else cs = imag;
            } else {
                p2 = load(products + 3 * part + i);
                p3 = load(products + 4 * part + i);
                p1 = load(products + 5 * part + i);
                vector minus_real = p1 - p3, minus_imag = p1 + p2;
                cc = 0.5f * (real + minus_real);
                ss = 0.5f * (minus_real - real);
                cs = 0.5f * (imag + minus_imag);
                sc = 0.5f * (imag - minus_imag);
            }
        }
        for (index_t t = 0; t < even; t++)
            store(c + t * stage_size + i, load(c + t * stage_size + i) + cosine[t] * cc);
        if (b->column_sine)
            for (index_t t = even; t < even + odd; t++)
                store(c + t * stage_size + i, load(c + t * stage_size + i) + sine[t - even] * cs);
        if (b->row_sine) {
            for (index_t t = 0; t < even; t++)
                store(s + t * stage_size + i, load(s + t * stage_size + i) + cosine[t] * sc);
            if (b->column_sine)
                for (index_t t = even; t < even + odd; t++)
                    store(s + t * stage_size + i, load(s + t * stage_size + i) + sine[t - even] * ss);
        }
    }
}

static void gather_parts(const correlate_arguments *p, const bin *b, const float *products,
                         index_t part, index_t size, float *c, float *s, index_t stage_size) {
    const index_t even = p->taps_axis->slots, odd = p->taps_axis->odd_slots;
#define TAPS(e, o)                                                                                \
    if (even == e && odd == o) {                                                                  \
        gather_parts_of(p, b, products, part, size, c, s, stage_size, e, o);                      \
        return;                                                                                   \
    }
    USUAL_TAPS
#undef TAPS
    gather_parts_of(p, b, products, part, size, c, s, stage_size, even, odd);
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
    const index_t strip_part = STRIP * LANES;
    float *left = scratch(2 * slots * size + MAX_PARTS * (2 * part + strip_part) + 128);
    float *stage = take(&left, 2 * slots * size);
    float *x = take(&left, MAX_PARTS * part), *g = take(&left, MAX_PARTS * part);
    float *products = take(&left, MAX_PARTS * strip_part);
    memset(stage, 0, (size_t)(2 * slots * size) * sizeof(float));
    memset(g, 0, (size_t)(MAX_PARTS * part) * sizeof(float)); /* lanes that are not there */

    for (index_t v = 0; v < p->columns->cosines; v++) {
        const bin b = bin_at(p->rows, p->columns, u, v);
        for (index_t n = 0; n < p->batch; n++) {
            split(&b, p->x + n * p->inputs + input_block * LANES, p->x_row, inputs, -1,
                  x + n * LANES, part);
            split(&b, p->g + n * p->g_image + block * LANES, p->g_row, lanes, 1, g + n * LANES,
                  part);
        }
        /* with X conjugated: Xr (Gi - Gr), Xi (Gr + Gi), (Xr + Xi) Gr */
        for (int first = 0; first < b.parts - 1; first += 3)
            for (index_t i = 0; i < part; i += WIDTH) {
                float *at = g + first * part + i;
                vector real = load(at), imag = load(at + part), sum = load(at + 2 * part);
                store(at, imag - real);
                store(at + part, sum);
                store(at + 2 * part, real);
            }
        for (index_t first = 0; first < inputs; first += STRIP) {
            const index_t count = least(inputs - first, STRIP);
            for (int n = 0; n < b.parts; n++)
                multiply(count, computed, p->batch, x + n * part + first, 1, LANES, g + n * part,
                         LANES, products + n * strip_part, LANES, 0);
            gather_parts(p, &b, products, strip_part, count * LANES, stage + first * LANES,
                         stage + slots * size + first * LANES, size);
        }
    }
    const int row_sine = u >= 1 && u <= p->rows->sines;
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
void passband_correlate(const float *x, index_t x_row, index_t inputs, const float *g, index_t g_row,
                        index_t g_image, index_t outputs, index_t batch, const axis *rows,
                        const axis *columns, const axis *taps_axis, float *taps, index_t threads) {
    correlate_arguments p = {x, g, x_row, g_row, batch, inputs, outputs, g_image, rows, columns,
                             taps_axis, taps};
    in_parallel(correlate_task, &p,
                ((outputs + LANES - 1) / LANES) * ((inputs + LANES - 1) / LANES) * rows->cosines,
                threads);
}
