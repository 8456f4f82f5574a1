import math

import pytest

from passband.bench.machine import Peaks
from passband.bench.work import Work, band_limited_work, native_work
from passband.ops.band_limited_conv.cost import multiplications
from passband.ops.band_limited_conv.geometry import conv_geometry

BATCH, INPUTS, OUTPUTS = 3, 5, 7
GEOMETRY = conv_geometry((9, 11), (3, 5), padding=2, compression=0.6)
MAPS = BATCH * INPUTS * 9 * 11
FILTERS = OUTPUTS * INPUTS * 15
OUTPUT = BATCH * OUTPUTS * 11 * 11


def work(algorithm: str, training: bool) -> Work:
    return band_limited_work(algorithm, GEOMETRY, BATCH, INPUTS, OUTPUTS, training)


def test_torch_moves_every_tensor_once_and_again_for_gradients() -> None:
    inference = native_work(GEOMETRY, BATCH, INPUTS, OUTPUTS, training=False)
    training = native_work(GEOMETRY, BATCH, INPUTS, OUTPUTS, training=True)
    assert inference == Work(OUTPUT * INPUTS * 15, 4 * (MAPS + FILTERS + OUTPUT))
    # the backward pass reads g, x, w and writes the gradients of x and w
    backward = OUTPUT + MAPS + FILTERS + MAPS + FILTERS
    assert training.bytes == inference.bytes + 4 * backward
    assert training.multiplications == 3 * inference.multiplications


def test_matmul_moves_spectra_instead_of_filters_in_inference() -> None:
    spectrum = math.prod(GEOMETRY.band.real_sizes)
    spectra = (
        BATCH * (INPUTS + OUTPUTS) * spectrum + 2 * GEOMETRY.band.pair_count * OUTPUTS * INPUTS
    )
    assert work("matmul", False).bytes == 4 * (MAPS + OUTPUT + spectra)
    both = 2 * (MAPS + FILTERS + OUTPUT + spectra)
    assert work("matmul", True).bytes == 4 * (both + FILTERS + BATCH * INPUTS * spectrum)


def test_lowpass_moves_the_lowpassed_map() -> None:
    spectrum = BATCH * INPUTS * math.prod(GEOMETRY.band.real_sizes)
    padded = BATCH * INPUTS * math.prod(GEOMETRY.padded_size)
    assert work("lowpass", False).bytes == 4 * (MAPS + FILTERS + OUTPUT + spectrum + padded)


def test_training_multiplies_thrice_and_transforms_twice() -> None:
    count = multiplications("matmul", GEOMETRY, BATCH, INPUTS, OUTPUTS)
    assert work("matmul", False).multiplications == count.product + count.transforms
    expected = 3 * count.product + 2 * (count.transforms + count.filters)
    assert work("matmul", True).multiplications == expected


@pytest.mark.parametrize("training", [True, False])
def test_at_full_band_lowpass_is_torch(training: bool) -> None:
    full = conv_geometry((9, 11), (3, 3), padding=1)
    shape = (BATCH, INPUTS, OUTPUTS, training)
    assert band_limited_work("lowpass", full, *shape) == native_work(full, *shape)


def test_the_slower_of_the_two_bounds() -> None:
    peaks = Peaks(multiplications=100.0, bytes=10.0)
    assert Work(300, 10).seconds(peaks) == 3.0
    assert Work(300, 50).seconds(peaks) == 5.0
