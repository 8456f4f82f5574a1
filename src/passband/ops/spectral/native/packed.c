/* Between coefficients in the real Fourier basis, as the transforms read and write them, and sparse
 * spectra: a bit per complex coefficient, and the values that are kept. In Python that is
 * frame.py:Frame (to_real) and spectrum/packed.py; here no dense complex spectrum is ever written.
 *
 * A real coefficient has `lanes` numbers, one per image and channel, with `stride` between the first
 * ones. A complex one, a bin, is made of at most four real ones: its real part of two and its
 * imaginary part of two. Bits and values come bin after bin, lane after lane.
 */
#include "core.h"

#define BLOCK 64      /* lanes at a time */
#define CHUNK_BINS 8  /* bins of a task: bits of other tasks are in other bytes */

typedef struct {
    index_t bins;
    const int32_t *rows;  /* (bins, 4): two of the real part, two of the imaginary part */
    const float *weights; /* (bins, 4) */
    index_t groups;       /* of bins that are made of the same rows */
    const int32_t *group_bins;  /* (groups, 2), -1 for none */
    const int32_t *group_rows;  /* (groups, 4), -1 for none */
    const int32_t *group_places; /* (groups, 2, 4): which of the group's rows each of a bin's is */
} bins_table;

typedef struct {
    const bins_table *table;
    float *real;   /* the first number of the first real coefficient */
    index_t lanes, stride, count; /* count: values of each part */
    float *values; /* (2, count) */
    uint8_t *bits; /* NULL: everything is kept */
    index_t *offsets; /* (bins): values before those of a bin */
    float least;   /* squared magnitude that is kept; 0: all but zeros are */
} job;

/* The 64 bits from a place on, as far as `end` bytes go. */
INLINE uint64_t bits_from(const uint8_t *bits, index_t place, index_t end) {
    const index_t byte = place >> 3, shift = place & 7;
    uint64_t low = 0, high = 0;
    if (byte + 8 < end) {
        memcpy(&low, bits + byte, 8);
        high = bits[byte + 8];
    } else {
        for (index_t i = 0; byte + i < end; i++) low |= (uint64_t)bits[byte + i] << 8 * i;
    }
    return shift ? low >> shift | high << (64 - shift) : low;
}

INLINE uint64_t first_bits(index_t count) { return count == 64 ? ~0ull : (1ull << count) - 1; }

INLINE uint64_t kept_bits(const job *j, index_t bin, index_t lane, index_t count) {
    if (!j->bits) return first_bits(count);
    const index_t end = (j->table->bins * j->lanes + 7) / 8;
    return bits_from(j->bits, bin * j->lanes + lane, end) & first_bits(count);
}

/* A bin's parts, for `count` lanes. */
INLINE void make_bin(const job *j, index_t bin, index_t lane, index_t count, float *restrict re,
                     float *restrict im) {
    const int32_t *rows = j->table->rows + 4 * bin;
    const float *w = j->table->weights + 4 * bin, *from = j->real + lane;
    const float *a = from + rows[0] * j->stride, *b = from + rows[1] * j->stride;
    const float *c = from + rows[2] * j->stride, *d = from + rows[3] * j->stride;
    if (rows[0] == rows[1] && rows[2] == rows[3]) { /* one term each */
        for (index_t i = 0; i < count; i++) re[i] = w[0] * a[i];
        for (index_t i = 0; i < count; i++) im[i] = w[2] * c[i];
        return;
    }
    for (index_t i = 0; i < count; i++) re[i] = w[0] * a[i] + w[1] * b[i];
    for (index_t i = 0; i < count; i++) im[i] = w[2] * c[i] + w[3] * d[i];
}

static void mark_chunk(const void *arguments, index_t task) {
    const job *j = arguments;
    const index_t last = least(j->table->bins, (task + 1) * CHUNK_BINS);
    uint8_t *to = j->bits + task * CHUNK_BINS * j->lanes / 8;
    uint64_t pending = 0;
    index_t waiting = 0; /* bits that are not written yet */
    for (index_t bin = task * CHUNK_BINS; bin < last; bin++) {
        index_t kept = 0;
        for (index_t lane = 0; lane < j->lanes; lane += BLOCK) {
            const index_t count = least(BLOCK, j->lanes - lane);
            float re[BLOCK], im[BLOCK];
            uint8_t flags[BLOCK] = {0};
            make_bin(j, bin, lane, count, re, im);
            /* what is not a number is kept */
            if (j->least > 0)
                for (index_t i = 0; i < count; i++)
                    flags[i] = !(re[i] * re[i] + im[i] * im[i] < j->least);
            else
                for (index_t i = 0; i < count; i++) flags[i] = (re[i] != 0) | (im[i] != 0);
            uint64_t word = 0;
            for (index_t i = 0; i < BLOCK; i += 8) {
                uint64_t eight;
                memcpy(&eight, flags + i, 8);
                word |= (eight * 0x0102040810204080ull) >> 56 << i;
            }
            kept += __builtin_popcountll(word);
            pending |= word << waiting;
            index_t had = waiting;
            waiting += count;
            if (waiting >= 64) {
                memcpy(to, &pending, 8);
                to += 8;
                waiting -= 64;
                pending = had ? word >> (64 - had) : 0;
            }
        }
        j->offsets[bin] = kept;
    }
    memcpy(to, &pending, (size_t)(waiting + 7) / 8);
}

/* From numbers of values of each bin to those before it; returns all of them. */
static index_t add_up(index_t *offsets, index_t bins) {
    index_t sum = 0;
    for (index_t bin = 0; bin < bins; bin++) {
        const index_t own = offsets[bin];
        offsets[bin] = sum;
        sum += own;
    }
    return sum;
}

static void count_values(const job *j) {
    for (index_t bin = 0; bin < j->table->bins; bin++) {
        index_t kept = 0;
        for (index_t lane = 0; lane < j->lanes; lane += BLOCK)
            kept += __builtin_popcountll(
                kept_bits(j, bin, lane, least(BLOCK, j->lanes - lane)));
        j->offsets[bin] = kept;
    }
    add_up(j->offsets, j->table->bins);
}

static void gather_chunk(const void *arguments, index_t task) {
    const job *j = arguments;
    const index_t last = least(j->table->bins, (task + 1) * CHUNK_BINS);
    for (index_t bin = task * CHUNK_BINS; bin < last; bin++) {
        float *re_to = j->values + j->offsets[bin], *im_to = re_to + j->count;
        for (index_t lane = 0; lane < j->lanes; lane += BLOCK) {
            const index_t count = least(BLOCK, j->lanes - lane);
            uint64_t kept = kept_bits(j, bin, lane, count);
            float re[BLOCK], im[BLOCK];
            if (!kept) continue;
            make_bin(j, bin, lane, count, re, im);
            if (kept == first_bits(count)) {
                memcpy(re_to, re, (size_t)count * sizeof(float));
                memcpy(im_to, im, (size_t)count * sizeof(float));
                re_to += count;
                im_to += count;
                continue;
            }
            for (; kept; kept &= kept - 1) {
                const int i = __builtin_ctzll(kept);
                *re_to++ = re[i];
                *im_to++ = im[i];
            }
        }
    }
}

/* to += w from */
INLINE void add_scaled(index_t count, float w, const float *restrict from, float *restrict to) {
    for (index_t i = 0; i < count; i++) to[i] += w * from[i];
}

static void scatter_group(const void *arguments, index_t group) {
    const job *j = arguments;
    const bins_table *table = j->table;
    const int32_t *bins = table->group_bins + 2 * group, *rows = table->group_rows + 4 * group;
    const int32_t *places = table->group_places + 8 * group;
    index_t done[2];
    for (int b = 0; b < 2; b++) done[b] = bins[b] < 0 ? 0 : j->offsets[bins[b]];
    for (index_t lane = 0; lane < j->lanes; lane += BLOCK) {
        const index_t count = least(BLOCK, j->lanes - lane);
        uint64_t both[2] = {0, 0};
        for (int b = 0; b < 2 && bins[b] >= 0; b++) both[b] = kept_bits(j, bins[b], lane, count);
        if (!(both[0] | both[1])) {
            for (int r = 0; r < 4 && rows[r] >= 0; r++)
                memset(j->real + rows[r] * j->stride + lane, 0, (size_t)count * sizeof(float));
            continue;
        }
        float sums[4][BLOCK] = {{0}};
        for (int b = 0; b < 2; b++) {
            uint64_t kept = both[b];
            if (!kept) continue;
            const float *w = table->weights + 4 * bins[b];
            const int32_t *place = places + 4 * b;
            const float *re_from = j->values + done[b], *im_from = re_from + j->count;
            float re[BLOCK] = {0}, im[BLOCK] = {0};
            done[b] += __builtin_popcountll(kept);
            if (kept == first_bits(count)) {
                memcpy(re, re_from, (size_t)count * sizeof(float));
                memcpy(im, im_from, (size_t)count * sizeof(float));
            } else {
                for (; kept; kept &= kept - 1) {
                    const int i = __builtin_ctzll(kept);
                    re[i] = *re_from++;
                    im[i] = *im_from++;
                }
            }
            add_scaled(BLOCK, w[0], re, sums[place[0]]);
            if (place[1] != place[0]) add_scaled(BLOCK, w[1], re, sums[place[1]]);
            add_scaled(BLOCK, w[2], im, sums[place[2]]);
            if (place[3] != place[2]) add_scaled(BLOCK, w[3], im, sums[place[3]]);
        }
        for (int r = 0; r < 4 && rows[r] >= 0; r++)
            memcpy(j->real + rows[r] * j->stride + lane, sums[r], (size_t)count * sizeof(float));
    }
}

INLINE index_t chunks(const bins_table *table) {
    return (table->bins + CHUNK_BINS - 1) / CHUNK_BINS;
}

/* Which coefficients have a squared magnitude of `least` or more, or where that is 0, are not zero:
 * their bits. Returns how many. */
EXPORTED index_t passband_mark(const bins_table *table, const float *real, index_t lanes,
                               index_t stride, float least_square, uint8_t *bits,
                               index_t *offsets, index_t threads) {
    const job j = {table, (float *)real, lanes, stride, 0, NULL, bits, offsets, least_square};
    in_parallel(mark_chunk, &j, chunks(table), threads);
    return add_up(offsets, table->bins);
}

/* The values of the coefficients that the bits name. */
EXPORTED void passband_gather(const bins_table *table, const float *real, index_t lanes,
                              index_t stride, const uint8_t *bits, index_t count, float *values,
                              index_t *offsets, index_t threads) {
    const job j = {table, (float *)real, lanes, stride, count, values, (uint8_t *)bits, offsets, 0};
    count_values(&j);
    in_parallel(gather_chunk, &j, chunks(table), threads);
}

/* The real coefficients of such values, the others being zero: the adjoint of gather. */
EXPORTED void passband_scatter(const bins_table *table, float *real, index_t lanes, index_t stride,
                               const uint8_t *bits, index_t count, const float *values,
                               index_t *offsets, index_t threads) {
    const job j = {table, real, lanes, stride, count, (float *)values, (uint8_t *)bits, offsets, 0};
    count_values(&j);
    in_parallel(scatter_group, &j, table->groups, threads);
}
