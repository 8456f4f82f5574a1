/* What the kernels are made of: threads, memory, the small matrix product, folding. */
#define _GNU_SOURCE /* madvise */
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "core.h"

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
void in_parallel(void (*run)(const void *, index_t), const void *arguments, index_t tasks,
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

float *scratch(index_t count) {
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

/* Ask for large pages: the first touch of fresh memory takes less time then, and rows far apart need
 * fewer translations of addresses. */
EXPORTED void passband_advise(void *memory, index_t bytes) {
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

void multiply(index_t rows, index_t lanes, index_t terms, const float *a, index_t a_row,
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

/* ---- folding ----------------------------------------------------------------------------------- */

void fold(const axis *ax, index_t size, const float *points, float *even, float *odd) {
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

void unfold(const axis *ax, index_t size, const float *even, const float *odd,
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

/* ---- transposition ------------------------------------------------------------------------------ */

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

void transpose_in(const float *const from[WIDTH], index_t columns, index_t readable,
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

void transpose_out(const float *from, index_t columns, index_t count,
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
