/* Sparse spectra of maps, and back: the coefficients of a block of lanes are there between the
 * transform and the packing, and nowhere else. */
#include <stdlib.h>

#include "packed.h"

/* Values before those of each block of each bin. */
static void count_blocks(const void *jobs, index_t index) {
    const job *j = (const job *)jobs + index;
    index_t sum = 0, *to = j->offsets;
    for (index_t bin = 0; bin < j->table->bins; bin++)
        for (index_t lane = 0; lane < j->lanes; lane += BLOCK) {
            *to++ = sum;
            sum += __builtin_popcountll(kept_bits(j, bin, lane, least(BLOCK, j->lanes - lane)));
        }
}

static void scatter_block(const void *other, index_t lane, index_t count, float *to) {
    const job *j = other;
    lane_numbers numbers;
    memset(&numbers, 0, sizeof numbers);
    for (index_t i = 0, c = 0; j->mix && i < count; i++) {
        c = i == 0 ? lane % j->mix->channels : c + 1 == j->mix->channels ? 0 : c + 1;
        numbers.first[i] = j->mix->first[c];
        numbers.second[i] = j->mix->second[c];
        numbers.constant[i] = j->mix->constant[c];
    }
    for (index_t group = 0; group < j->table->groups; group++) {
        const int32_t *bins = j->table->group_bins + 2 * group;
        index_t at[2];
        for (int b = 0; b < 2; b++)
            at[b] = bins[b] < 0 ? 0 : j->offsets[bins[b] * blocks(j) + lane / BLOCK];
        scatter_lanes(j, group, lane, count, at, j->mix ? &numbers : NULL, to, LANES);
    }
}

static void gather_block(const void *other, index_t lane, index_t count, float *from) {
    const job *j = other;
    for (index_t bin = 0; bin < j->table->bins; bin++)
        gather_lanes(j, bin, lane, from, LANES, kept_bits(j, bin, lane, count), count,
                     j->offsets[bin * blocks(j) + lane / BLOCK], 1);
}

/* Run transforms that are as `one` of the maps of each job, whose values are counted before. */
static void run(void (*direction)(const transform *, index_t, index_t), transform one,
                const job *jobs, index_t count, index_t threads) {
    transform *all = malloc((size_t)count * sizeof(transform));
    if (!all) abort();
    for (index_t i = 0; i < count; i++) {
        all[i] = one;
        all[i].maps = &jobs[i].maps;
        all[i].planes = jobs[i].lanes;
        all[i].other = jobs + i;
    }
    in_parallel(count_blocks, jobs, count, threads);
    direction(all, count, threads);
    free(all);
}

/* Of each of `count` jobs: the maps that values make up, with what `mix` adds if it is not NULL:
 * scatter and synthesis. `offsets` is for (bins, blocks of LANES lanes). */
EXPORTED void passband_unpack(const job *jobs, index_t count, const axis *rows,
                              const axis *columns, index_t threads) {
    const transform one = {.rows = rows, .columns = columns, .fill = scatter_block};
    run(synthesize, one, jobs, count, threads);
}

/* Of each of `count` jobs: the values of maps that the bits name: analysis and gather. With units
 * they are 8-bit ones, and the units are made too. */
EXPORTED void passband_pick(const job *jobs, index_t count, const axis *rows,
                            const axis *columns, index_t threads) {
    const transform one = {.rows = rows, .columns = columns, .drain = gather_block};
    run(analyze, one, jobs, count, threads);
}
