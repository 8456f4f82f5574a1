/* Between coefficients in the real Fourier basis, as the transforms read and write them, and sparse
 * spectra: a bit per complex coefficient, and the values that are kept. In Python that is
 * frame.py:Frame (to_real) and spectrum/packed.py; here no dense complex spectrum is ever written.
 *
 * A real coefficient has `lanes` numbers, one per image and channel, with `stride` between the first
 * ones. A complex one, a bin, is made of at most four real ones: its real part of two and its
 * imaginary part of two. Bits and values come bin after bin, lane after lane.
 */
#ifndef PASSBAND_PACKED_H
#define PASSBAND_PACKED_H

#include "transforms.h"

#define BLOCK LANES   /* lanes at a time */
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

/* What is added to values g: the maps of them and of other values x, of the same bits, make up
 * first g + second x + constant, with a number per channel of each. */
typedef struct {
    const void *values; /* x */
    const uint16_t *units; /* of them */
    const float *ratio; /* (bins): from x to what is as g is */
    const float *first, *second, *constant;
    index_t channels;
} mixture;

/* What is to be done of one unit of images. */
typedef struct {
    float *real;   /* the first number of the first real coefficient */
    maps maps;     /* where there are no coefficients: what they are transforms of */
    index_t lanes, stride, count; /* count: values of each part */
    void *values; /* (2, count): floats, or with units 8-bit numbers */
    uint8_t *bits; /* NULL: everything is kept */
    index_t *offsets; /* values before those of a bin (bins), or of its blocks (bins, blocks) */
    uint16_t *units; /* (bins, blocks): what one step of 8-bit values is, see to_unit; NULL: floats */
    const mixture *mix; /* NULL: nothing is added */
    /* the same of all units */
    const bins_table *table;
    float least;   /* squared magnitude that is kept; 0: all but zeros are */
} job;

INLINE index_t chunks(const bins_table *table) {
    return (table->bins + CHUNK_BINS - 1) / CHUNK_BINS;
}

/* The job that a task is of, where each is `tasks` of them; the task becomes its own number. */
INLINE const job *job_of(const void *jobs, index_t *task, index_t tasks) {
    const job *own = (const job *)jobs + *task / tasks;
    *task %= tasks;
    return own;
}

INLINE const job *job_of_chunk(const void *jobs, index_t *task) {
    return job_of(jobs, task, chunks(((const job *)jobs)->table));
}

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

/* A bin's parts, of `count` lanes whose real coefficients are `stride` apart. */
INLINE void bin_of(const job *j, index_t bin, const float *from, index_t stride, index_t count,
                   float *restrict re, float *restrict im) {
    const int32_t *rows = j->table->rows + 4 * bin;
    const float *w = j->table->weights + 4 * bin;
    const float *a = from + rows[0] * stride, *b = from + rows[1] * stride;
    const float *c = from + rows[2] * stride, *d = from + rows[3] * stride;
    if (rows[0] == rows[1] && rows[2] == rows[3]) { /* one term each */
        for (index_t i = 0; i < count; i++) re[i] = w[0] * a[i];
        for (index_t i = 0; i < count; i++) im[i] = w[2] * c[i];
        return;
    }
    for (index_t i = 0; i < count; i++) re[i] = w[0] * a[i] + w[1] * b[i];
    for (index_t i = 0; i < count; i++) im[i] = w[2] * c[i] + w[3] * d[i];
}

INLINE void make_bin(const job *j, index_t bin, index_t lane, index_t count, float *re, float *im) {
    bin_of(j, bin, j->real + lane, j->stride, count, re, im);
}

/* Zero the parts of what is smaller than the least magnitude. */
INLINE void drop_small(const job *j, index_t count, float *restrict re, float *restrict im) {
    for (index_t i = 0; i < count; i++) {
        const int dropped = re[i] * re[i] + im[i] * im[i] < j->least;
        re[i] = dropped ? 0 : re[i];
        im[i] = dropped ? 0 : im[i];
    }
}

INLINE index_t blocks(const job *j) { return (j->lanes + BLOCK - 1) / BLOCK; }

/* What one step of the 8-bit values of a bin's block of lanes is: the upper half of a float. */
INLINE float get_unit(const job *j, const uint16_t *units, index_t bin, index_t lane) {
    const uint32_t bits = (uint32_t)units[bin * blocks(j) + lane / BLOCK] << 16;
    float unit;
    memcpy(&unit, &bits, sizeof unit);
    return unit;
}

/* That half of a float, to the nearest, of two the even one. */
INLINE uint16_t to_unit(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* The unit of a block of a bin: the largest part is 127 of it. Zeros are put behind `count` lanes. */
INLINE uint16_t unit_of(index_t count, float re[BLOCK], float im[BLOCK]) {
    uint32_t bits[2 * BLOCK], most = 0; /* magnitudes in the order of their bits */
    float largest;
    for (index_t i = count; i < BLOCK; i++) re[i] = im[i] = 0;
    memcpy(bits, re, BLOCK * sizeof(float));
    memcpy(bits + BLOCK, im, BLOCK * sizeof(float));
    for (index_t i = 0; i < 2 * BLOCK; i++) {
        const uint32_t own = bits[i] & 0x7fffffff;
        most = own > most ? own : most;
    }
    most = most < 0x7f800000 ? most : 0x7fc00000; /* no finite number: not a number */
    memcpy(&largest, &most, sizeof largest);
    return to_unit(largest / 127);
}

/* How many steps a part is, to the nearest, of two the even one; the least unit is no zero. */
INLINE void to_steps(float unit, index_t count, float *part) {
    const float least_unit = 1.17549435e-38f, magic = 12582912; /* 1.5 * 2^23 */
    const float divisor = unit < least_unit ? least_unit : unit;
    for (index_t i = 0; i < count; i++) part[i] = (part[i] / divisor + magic) - magic;
}

/* Values of some lanes of a bin, of which `count` are kept, to where they belong. */
INLINE void put_values(const job *j, index_t bin, index_t lane, index_t at, index_t count, float *re,
                       float *im) {
    if (!j->units) {
        float *to = (float *)j->values + at;
        memcpy(to, re, (size_t)count * sizeof(float));
        memcpy(to + j->count, im, (size_t)count * sizeof(float));
        return;
    }
    int8_t *to = (int8_t *)j->values + at;
    const float unit = get_unit(j, j->units, bin, lane);
    to_steps(unit, count, re);
    to_steps(unit, count, im);
    for (index_t i = 0; i < count; i++) to[i] = (int8_t)(int32_t)re[i];
    for (index_t i = 0; i < count; i++) to[j->count + i] = (int8_t)(int32_t)im[i];
}

/* Values of some lanes of a bin, of `total`; `unit` is NULL of floats. */
INLINE void take_values(const void *values, const float *unit, index_t total, index_t at,
                        index_t count, float *restrict re, float *restrict im) {
    if (!unit) {
        const float *from = (const float *)values + at;
        memcpy(re, from, (size_t)count * sizeof(float));
        memcpy(im, from + total, (size_t)count * sizeof(float));
        return;
    }
    const int8_t *from = (const int8_t *)values + at;
    const float step = *unit;
    for (index_t i = 0; i < count; i++) re[i] = step * from[i];
    for (index_t i = 0; i < count; i++) im[i] = step * from[total + i];
}

/* The values of the `count` lanes of a block of a bin, with zeros where none is kept: BLOCK of them;
 * with units, 8-bit ones. */
INLINE void spread_values(const job *j, const void *values, const uint16_t *units, index_t bin,
                          index_t lane, index_t at, uint64_t kept, index_t count, float *re,
                          float *im) {
    const float step = units ? get_unit(j, units, bin, lane) : 0, *unit = units ? &step : NULL;
    memset(re, 0, BLOCK * sizeof(float));
    memset(im, 0, BLOCK * sizeof(float));
    if (kept == first_bits(count)) {
        take_values(values, unit, j->count, at, count, re, im);
        return;
    }
    float re_from[BLOCK], im_from[BLOCK];
    take_values(values, unit, j->count, at, __builtin_popcountll(kept), re_from, im_from);
    for (int n = 0; kept; kept &= kept - 1, n++) {
        const int i = __builtin_ctzll(kept);
        re[i] = re_from[n];
        im[i] = im_from[n];
    }
}

/* Put what is kept of some lanes of a bin where it belongs; returns how many that are. Units are
 * there already, or made now. */
INLINE index_t gather_lanes(const job *j, index_t bin, index_t lane, const float *from,
                            index_t stride, uint64_t kept, index_t count, index_t at,
                            const int makes_units) {
    float re[BLOCK], im[BLOCK];
    if (!kept && !makes_units) return 0;
    bin_of(j, bin, from, stride, count, re, im);
    if (j->units) drop_small(j, count, re, im);
    if (j->units && makes_units)
        j->units[bin * blocks(j) + lane / BLOCK] = unit_of(count, re, im);
    if (kept != first_bits(count)) /* those that are kept move to the front */
        for (count = 0; kept; kept &= kept - 1, count++) {
            const int i = __builtin_ctzll(kept);
            re[count] = re[i];
            im[count] = im[i];
        }
    put_values(j, bin, lane, at, count, re, im);
    return count;
}

/* to += w from */
INLINE void add_scaled(index_t count, float w, const float *restrict from, float *restrict to) {
    for (index_t i = 0; i < count; i++) to[i] += w * from[i];
}

/* Numbers of the lanes of a block, from those of the channels. */
typedef struct {
    float first[BLOCK], second[BLOCK], constant[BLOCK];
} lane_numbers;

/* Write the real coefficients of some lanes of a group's bins, `stride` apart, from the values from
 * `at` on; moves on by what is taken. The mixture's numbers of these lanes are `numbers`. */
INLINE void scatter_lanes(const job *j, index_t group, index_t lane, index_t count, index_t at[2],
                          const lane_numbers *numbers, float *to, index_t stride) {
    const bins_table *table = j->table;
    const int32_t *bins = table->group_bins + 2 * group, *rows = table->group_rows + 4 * group;
    const int32_t *places = table->group_places + 8 * group;
    uint64_t both[2] = {0, 0};
    for (int b = 0; b < 2 && bins[b] >= 0; b++) both[b] = kept_bits(j, bins[b], lane, count);
    const int has_mean = numbers && (bins[0] == 0 || bins[1] == 0); /* bin 0 is frequency zero */
    if (!(both[0] | both[1]) && !has_mean) {
        for (int r = 0; r < 4 && rows[r] >= 0; r++)
            memset(to + rows[r] * stride, 0, (size_t)count * sizeof(float));
        return;
    }
    float sums[4][BLOCK] = {{0}};
    for (int b = 0; b < 2; b++) {
        const index_t bin = bins[b];
        if (!both[b] && !(has_mean && bin == 0)) continue;
        const float *w = table->weights + 4 * bin;
        const int32_t *place = places + 4 * b;
        float re[BLOCK], im[BLOCK];
        spread_values(j, j->values, j->units, bin, lane, at[b], both[b], count, re, im);
        if (numbers) {
            const mixture *m = j->mix;
            const float ratio = m->ratio[bin];
            float x_re[BLOCK], x_im[BLOCK];
            spread_values(j, m->values, m->units, bin, lane, at[b], both[b], count, x_re, x_im);
            for (int i = 0; i < BLOCK; i++) {
                re[i] = numbers->first[i] * re[i] + numbers->second[i] * ratio * x_re[i];
                im[i] = numbers->first[i] * im[i] + numbers->second[i] * ratio * x_im[i];
            }
            if (bin == 0) add_scaled(BLOCK, 1, numbers->constant, re);
        }
        at[b] += __builtin_popcountll(both[b]);
        add_scaled(BLOCK, w[0], re, sums[place[0]]);
        if (place[1] != place[0]) add_scaled(BLOCK, w[1], re, sums[place[1]]);
        add_scaled(BLOCK, w[2], im, sums[place[2]]);
        if (place[3] != place[2]) add_scaled(BLOCK, w[3], im, sums[place[3]]);
    }
    for (int r = 0; r < 4 && rows[r] >= 0; r++)
        memcpy(to + rows[r] * stride, sums[r], (size_t)count * sizeof(float));
}

#endif
