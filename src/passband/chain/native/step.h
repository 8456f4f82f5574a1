/* A step of a network, and what all kinds of steps need. engine.c says what the steps are. */
#ifndef PASSBAND_STEP_H
#define PASSBAND_STEP_H

#include <math.h>
#include <stddef.h>
#if defined(__SSE__)
#include <immintrin.h>
#endif

#include "core.h"

enum {
    CONVOLVE, POOL_AVERAGE, POOL_MAXIMUM, ADD, AFFINE, COPY, SHIFT, LINEAR, INTERLEAVE, DEPTHWISE
};

/* One step. Places are of the first number inside the border, in numbers from the workspace's start;
 * strides are in numbers too. */
typedef struct {
    index_t kind;
    index_t from, other, to;
    index_t inputs, others, outputs; /* channels */
    index_t groups;                  /* of channels, each a convolution of its own */
    index_t rows, columns;           /* of the result */
    index_t from_plane, from_row, from_column;
    index_t other_plane; /* of shifted copies: from one to the next */
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

/* The place of each number, and numbers n to n + WIDTH - 1 of two registers. */
#if WIDTH == 16
#define PLACES ((truths){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
#define FROM(a, b, n)                                                                             \
    SHUFFLE(a, b, n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7, n + 8, n + 9, n + 10,       \
            n + 11, n + 12, n + 13, n + 14, n + 15)
#elif WIDTH == 8
#define PLACES ((truths){0, 1, 2, 3, 4, 5, 6, 7})
#define FROM(a, b, n) SHUFFLE(a, b, n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7)
#else
#define PLACES ((truths){0, 1, 2, 3})
#define FROM(a, b, n) SHUFFLE(a, b, n, n + 1, n + 2, n + 3)
#endif

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

/* Steps of the kinds CONVOLVE, whose results may lie elsewhere, and DEPTHWISE. */
void convolve(const step *s, const float *work, float *results);
void depthwise(const step *s, float *work);

#endif
