/* Band-limited convolution in float32: truncated real Fourier transforms, and the product of maps
 * and filters frequency by frequency. The mathematics is in ../README.md; the shapes and tables come
 * from tables.py and convolution.py. Plain C with vector extensions (GCC, Clang), no header of Python
 * or PyTorch.
 *
 * Everything heavy is one small matrix product, `multiply`: a matrix of scalars times rows of LANES
 * contiguous numbers. In the transforms a lane is a map (one channel of one image), in the products
 * over channels it is an output channel.
 *
 * core.c: threads, memory, the small product, folding. transforms.c: maps to spectra and back.
 * filters.c: filters along their rows. product.c: the product over channels, and its gradient.
 * normalise.c: batch norm and activation of a block around a convolution. pool.c: its maxima.
 */
#ifndef PASSBAND_CORE_H
#define PASSBAND_CORE_H

#include <stdint.h>
#include <string.h>

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

typedef float vector __attribute__((vector_size(4 * WIDTH)));
typedef float loose_vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int64_t index_t;

#define INLINE static inline __attribute__((always_inline))

INLINE vector load(const float *from) { return *(const loose_vector *)from; }
INLINE void store(float *to, vector value) { *(loose_vector *)to = value; }
INLINE float get_one(const float *from) { return *from; }
INLINE void put_one(float *to, float value) { *to = value; }
/* Numbers of two registers, by their places in both. */
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t selection __attribute__((vector_size(4 * WIDTH)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (selection){__VA_ARGS__})
#endif

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

INLINE index_t frequencies(const axis *ax) { return ax->cosines + ax->sines; }
INLINE index_t components(const axis *ax) { return ax->slots + ax->odd_slots; }

/* What Python calls is visible, everything else is this library's own. */
#define EXPORTED __attribute__((visibility("default")))
#pragma GCC visibility push(hidden)

/* Run `tasks` tasks on as many threads. */
void in_parallel(void (*run)(const void *, index_t), const void *arguments, index_t tasks,
                 index_t threads);

/* Memory of one task, kept by its thread for the next one: pages are touched for the first time
 * once. It is freed when the thread ends. */
float *scratch(index_t count);

/* The next `count` numbers of it. */
INLINE float *take(float **scratch_left, index_t count) {
    float *taken = *scratch_left;
    *scratch_left += (count + 15) / 16 * 16;
    return taken;
}

/* c[i][lane] (+)= sum_k a[i a_row + k a_term] b[k][lane], for `lanes` a multiple of WIDTH. */
void multiply(index_t rows, index_t lanes, index_t terms, const float *a, index_t a_row,
              index_t a_term, const float *b, index_t b_term, float *c, index_t c_row,
              int accumulate);

/* x[n] + x[N-n] for the cosines, x[n] - x[N-n] for the sines: rows of `size` numbers from points to
 * slots, even (slots) and odd (odd_slots). */
void fold(const axis *ax, index_t size, const float *points, float *even, float *odd);

/* The inverse, and the adjoint: from slots to points. */
void unfold(const axis *ax, index_t size, const float *even, const float *odd, float *points);

/* to[j][i] = from[i][j] for j below `columns`, where up to `readable` may be read; rows of `to` are
 * LANES apart. What is `ahead` of them is needed next. */
void transpose_in(const float *const from[WIDTH], index_t columns, index_t readable, index_t ahead,
                  float *to);

/* to[i][j] = from[j][i] for j below `columns`, for the first `count` of the rows. */
void transpose_out(const float *from, index_t columns, index_t count, float *const to[WIDTH]);

#endif
