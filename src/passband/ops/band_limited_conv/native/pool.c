/* The maxima of windows that lie side by side, of maps (planes, height, width) without gaps, and
 * where in its window each stands. The first of equal numbers counts, and what is not a number is
 * the largest, as in PyTorch. */
#include "core.h"

#define BLOCK 64  /* maxima at a time */
#define TASK 4096 /* maxima of a task */
#define MOST_COLUMNS 8

typedef struct {
    float *maps;    /* or their gradient */
    float *pooled;  /* or its gradient */
    uint8_t *place;
    index_t height, width, rows, columns; /* rows, columns: of a window */
    index_t count;                        /* maxima */
} pool_job;

/* Copy the r-th rows of the windows of some maxima, one after the other, from the maps or back. */
INLINE void copy_rows(const pool_job *j, index_t first, index_t r, float *rows, int back) {
    const index_t down = j->height / j->rows, across = j->width / j->columns;
    const index_t last = least(j->count, first + BLOCK);
    for (index_t at = first; at < last;) {
        const index_t x = at % across, y = at / across % down, plane = at / across / down;
        const index_t count = least(across - x, last - at);
        float *own = rows + (at - first) * j->columns;
        float *map = j->maps + (plane * j->height + y * j->rows + r) * j->width + x * j->columns;
        const size_t bytes = (size_t)(count * j->columns) * sizeof(float);
        if (back) memcpy(map, own, bytes);
        else memcpy(own, map, bytes);
        at += count;
    }
}

INLINE void maxima_of(const pool_job *j, index_t rows, index_t columns, index_t first) {
    float best[BLOCK], row[BLOCK * MOST_COLUMNS];
    int32_t at[BLOCK] = {0};
    const index_t count = least(BLOCK, j->count - first);
    if (count < BLOCK) memset(row, 0, sizeof row);
    for (int32_t r = 0; r < rows; r++) {
        copy_rows(j, first, r, row, 0);
        if (r == 0)
            for (int i = 0; i < BLOCK; i++) best[i] = row[i * columns];
        for (int32_t c = 0; c < columns; c++)
            for (int i = 0; i < BLOCK; i++) {
                const float v = row[i * columns + c];
                const int larger = (v > best[i]) | (v != v);
                best[i] = larger ? v : best[i];
                at[i] = larger ? r * (int32_t)columns + c : at[i];
            }
    }
    memcpy(j->pooled + first, best, (size_t)count * sizeof(float));
    for (index_t i = 0; i < count; i++) j->place[first + i] = (uint8_t)at[i];
}

INLINE void gradient_of(const pool_job *j, index_t rows, index_t columns, index_t first) {
    float grad[BLOCK] = {0}, row[BLOCK * MOST_COLUMNS];
    int32_t at[BLOCK] = {0};
    const index_t count = least(BLOCK, j->count - first);
    memcpy(grad, j->pooled + first, (size_t)count * sizeof(float));
    for (index_t i = 0; i < count; i++) at[i] = j->place[first + i];
    for (int32_t r = 0; r < rows; r++) {
        for (int i = 0; i < BLOCK; i++)
            for (int32_t c = 0; c < columns; c++)
                row[i * columns + c] = at[i] == r * (int32_t)columns + c ? grad[i] : 0;
        copy_rows(j, first, r, row, 1);
    }
}

/* Each block of a task; the usual window is compiled for itself. */
INLINE void each_block(const pool_job *j, index_t task,
                       void (*run)(const pool_job *, index_t, index_t, index_t)) {
    for (index_t first = task * TASK; first < least(j->count, (task + 1) * TASK); first += BLOCK) {
        if (j->rows == 2 && j->columns == 2)
            run(j, 2, 2, first);
        else
            run(j, j->rows, j->columns, first);
    }
}

static void maxima_task(const void *j, index_t task) { each_block(j, task, maxima_of); }

static void gradient_task(const void *j, index_t task) { each_block(j, task, gradient_of); }

INLINE pool_job job_of(const float *maps, index_t planes, index_t height, index_t width,
                       index_t rows, index_t columns, const float *pooled, const uint8_t *place) {
    return (pool_job){(float *)maps, (float *)pooled, (uint8_t *)place, height, width,
                      rows, columns, planes * (height / rows) * (width / columns)};
}

/* The maxima, and where in its window each stands: row * columns + column. */
EXPORTED void passband_maxima(const float *maps, index_t planes, index_t height, index_t width,
                              index_t rows, index_t columns, float *pooled, uint8_t *place,
                              index_t threads) {
    const pool_job j = job_of(maps, planes, height, width, rows, columns, pooled, place);
    in_parallel(maxima_task, &j, (j.count + TASK - 1) / TASK, threads);
}

/* The gradient of the maps from that of the maxima. */
EXPORTED void passband_maxima_gradient(const float *grad, const uint8_t *place, index_t planes,
                                       index_t height, index_t width, index_t rows,
                                       index_t columns, float *to, index_t threads) {
    const pool_job j = job_of(to, planes, height, width, rows, columns, grad, place);
    if (height % rows || width % columns) /* some points are in no window */
        memset(to, 0, (size_t)(planes * height * width) * sizeof(float));
    in_parallel(gradient_task, &j, (j.count + TASK - 1) / TASK, threads);
}
