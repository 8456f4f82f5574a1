/* Sparse spectra of real coefficients in memory, and back: see packed.h. */
#include "packed.h"

static void units_chunk(const void *jobs, index_t task) {
    const job *j = job_of_chunk(jobs, &task);
    const index_t last = least(j->table->bins, (task + 1) * CHUNK_BINS);
    uint16_t *to = j->units + task * CHUNK_BINS * blocks(j);
    for (index_t bin = task * CHUNK_BINS; bin < last; bin++) {
        for (index_t lane = 0; lane < j->lanes; lane += BLOCK) {
            const index_t count = least(BLOCK, j->lanes - lane);
            float re[BLOCK], im[BLOCK];
            make_bin(j, bin, lane, count, re, im);
            drop_small(j, count, re, im);
            *to++ = unit_of(count, re, im);
        }
    }
}

static void mark_chunk(const void *jobs, index_t task) {
    const job *j = job_of_chunk(jobs, &task);
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
            if (j->units) {
                drop_small(j, count, re, im);
                const float unit = get_unit(j, j->units, bin, lane);
                to_steps(unit, count, re);
                to_steps(unit, count, im);
            }
            /* what is not a number is kept */
            if (j->least > 0 && !j->units)
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

static void count_values(const void *jobs, index_t index) {
    const job *j = (const job *)jobs + index;
    for (index_t bin = 0; bin < j->table->bins; bin++) {
        index_t kept = 0;
        for (index_t lane = 0; lane < j->lanes; lane += BLOCK)
            kept += __builtin_popcountll(
                kept_bits(j, bin, lane, least(BLOCK, j->lanes - lane)));
        j->offsets[bin] = kept;
    }
    add_up(j->offsets, j->table->bins);
}

static void gather_chunk(const void *jobs, index_t task) {
    const job *j = job_of_chunk(jobs, &task);
    const index_t last = least(j->table->bins, (task + 1) * CHUNK_BINS);
    for (index_t bin = task * CHUNK_BINS; bin < last; bin++) {
        index_t at = j->offsets[bin];
        for (index_t lane = 0; lane < j->lanes; lane += BLOCK) {
            const index_t count = least(BLOCK, j->lanes - lane);
            const uint64_t kept = kept_bits(j, bin, lane, count);
            at += gather_lanes(j, bin, lane, j->real + lane, j->stride, kept, count, at, 0);
        }
    }
}

static void scatter_group(const void *jobs, index_t group) {
    const job *j = job_of(jobs, &group, ((const job *)jobs)->table->groups);
    const int32_t *bins = j->table->group_bins + 2 * group;
    index_t at[2];
    for (int b = 0; b < 2; b++) at[b] = bins[b] < 0 ? 0 : j->offsets[bins[b]];
    for (index_t lane = 0; lane < j->lanes; lane += BLOCK)
        scatter_lanes(j, group, lane, least(BLOCK, j->lanes - lane), at, NULL, j->real + lane,
                      j->stride);
}

/* Of the bins of a chunk, over the lanes of each channel: products of g and x; g and x of bin 0. */
static void multiply_chunk(const void *jobs, index_t task) {
    const job *j = job_of_chunk(jobs, &task);
    const mixture *m = j->mix;
    double *products = (double *)j->real + 3 * task * m->channels;
    double *of_g = products + m->channels, *of_x = of_g + m->channels;
    const index_t last = least(j->table->bins, (task + 1) * CHUNK_BINS);
    memset(products, 0, (size_t)(3 * m->channels) * sizeof(double));
    for (index_t bin = task * CHUNK_BINS; bin < last; bin++) {
        index_t at = j->offsets[bin], c = 0;
        for (index_t lane = 0; lane < j->lanes; lane += BLOCK) {
            const index_t count = least(BLOCK, j->lanes - lane);
            const uint64_t kept = kept_bits(j, bin, lane, count);
            float re[BLOCK], im[BLOCK], x_re[BLOCK], x_im[BLOCK], product[BLOCK];
            if (!kept) {
                c = (c + count) % m->channels;
                continue;
            }
            spread_values(j, j->values, j->units, bin, lane, at, kept, count, re, im);
            spread_values(j, m->values, m->units, bin, lane, at, kept, count, x_re, x_im);
            at += __builtin_popcountll(kept);
            for (int i = 0; i < BLOCK; i++) product[i] = re[i] * x_re[i] + im[i] * x_im[i];
            for (index_t i = 0; i < count; i++) {
                products[c] += product[i];
                if (bin == 0) {
                    of_g[c] += re[i];
                    of_x[c] += x_re[i];
                }
                if (++c == m->channels) c = 0;
            }
        }
    }
}

/* What follows does the same for each of `count` jobs. */

/* The units of 8-bit values, one for each block of lanes of each bin: the largest part of those
 * coefficients that have a squared magnitude of `least` is 127 of them. */
EXPORTED void passband_units(const job *jobs, index_t count, index_t threads) {
    in_parallel(units_chunk, jobs, count * chunks(jobs->table), threads);
}

/* Which coefficients have a squared magnitude of `least` or more, or where that is 0, are not zero;
 * with units, of which the 8-bit values are not: their bits, and how many they are. */
EXPORTED void passband_mark(job *jobs, index_t count, index_t threads) {
    in_parallel(mark_chunk, jobs, count * chunks(jobs->table), threads);
    for (job *j = jobs; j < jobs + count; j++) j->count = add_up(j->offsets, j->table->bins);
}

/* The values of the coefficients that the bits name; with units, 8-bit ones. */
EXPORTED void passband_gather(const job *jobs, index_t count, index_t threads) {
    in_parallel(count_values, jobs, count, threads);
    in_parallel(gather_chunk, jobs, count * chunks(jobs->table), threads);
}

/* The real coefficients of such values, the others being zero: the adjoint of gather. */
EXPORTED void passband_scatter(const job *jobs, index_t count, index_t threads) {
    in_parallel(count_values, jobs, count, threads);
    in_parallel(scatter_group, jobs, count * jobs->table->groups, threads);
}

/* Of the bins of a chunk, over the lanes of each channel, to `real`: products of values and of the
 * mixture's x, and those of frequency zero: (chunks, 3, channels), to be added up. */
EXPORTED void passband_products(const job *jobs, index_t count, index_t threads) {
    in_parallel(count_values, jobs, count, threads);
    in_parallel(multiply_chunk, jobs, count * chunks(jobs->table), threads);
}
