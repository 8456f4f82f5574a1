/* Maps to truncated spectra in the real Fourier basis, and back. */
#ifndef PASSBAND_TRANSFORMS_H
#define PASSBAND_TRANSFORMS_H

#include "core.h"

/* What is done with the coefficients of some planes: a row of LANES numbers per frequency. */
typedef void (*of_block)(const void *other, index_t plane, index_t lanes, float *coefficients);

/* Spectra lie frequency by frequency, a row of planes each; or where `spectra` is there as maps do;
 * or they are nowhere: then `drain` takes what analysis makes of LANES planes, and `fill` makes what
 * synthesis is to take, of what is `other` to them. */
typedef struct {
    const maps *maps;
    index_t planes;
    const axis *rows, *columns;
    float *spectrum;
    index_t spectrum_row; /* numbers from one frequency to the next */
    const maps *spectra;
    of_block drain, fill;
    const void *other;
} transform;

/* Several transforms, at once. */
void analyze(const transform *all, index_t count, index_t threads);
void synthesize(const transform *all, index_t count, index_t threads);

#endif
