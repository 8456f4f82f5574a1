import re
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from passband.spectrum.band import (
    Band,
    band_from_compression,
    check_band_arguments,
    full_band,
    nested_bands,
    parseval_weights,
)
from tests.spectrum.strategies import bands, grids, seeds
from tests.support import assert_close, properties, random


def whole_mask(band: Band) -> np.ndarray:
    """The definition over the full spectrum: |f| <= k - 1 on every axis, all f on a full axis."""
    inside = np.zeros(band.sizes, bool)
    for index in np.ndindex(*band.sizes):
        inside[index] = all(
            k == n // 2 + 1 or min(i, n - i) <= k - 1
            for i, n, k in zip(index, band.sizes, band.kept, strict=True)
        )
    return inside


def low_pass(maps: Tensor, band: Band) -> Tensor:
    dims = tuple(range(-len(band.sizes), 0))
    return torch.fft.irfftn(torch.fft.rfftn(maps, dim=dims) * band.mask(), s=band.sizes, dim=dims)


def negative(index: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-i % n for i, n in zip(index, sizes, strict=True))


@properties
@given(bands())
def test_the_mask_is_the_half_of_a_hermitian_one(band: Band) -> None:
    whole = whole_mask(band)
    np.testing.assert_array_equal(band.mask().numpy(), whole[..., : band.sizes[-1] // 2 + 1])
    for index in np.ndindex(*band.sizes):
        assert whole[index] == whole[negative(index, band.sizes)]


@properties
@given(bands(), seeds)
def test_a_low_passed_map_is_real(band: Band, seed: int) -> None:
    """Both halves of the spectrum, masked, have a real inverse, which is that of the one half."""
    maps = random(*band.sizes, seed=seed)
    whole = np.fft.ifftn(np.fft.fftn(maps.numpy()) * whole_mask(band))
    # float64 rounding of transforms of at most 729 points
    assert np.abs(whole.imag).max() < 1e-13
    assert_close(low_pass(maps, band), torch.from_numpy(whole.real))


@properties
@given(bands())
def test_sizes_count_what_the_masks_keep(band: Band) -> None:
    half, whole = band.mask(), whole_mask(band)
    assert band.coefficients == half.numel()
    assert band.kept_coefficients == half.sum()
    assert band.realised_compression == pytest.approx(1 - half.double().mean().item())
    assert np.prod(band.real_sizes) == whole.sum()  # a real number for every frequency kept
    for size, kept, real, cosines, sines in zip(
        band.sizes, band.kept, band.real_sizes, band.cosines, band.sines, strict=True
    ):
        assert real == min(2 * kept - 1, size) == cosines + sines


@properties
@given(bands())
def test_bins_hold_one_of_each_conjugate_pair(band: Band) -> None:
    bins = [tuple(int(f) for f in frequencies) for frequencies in band.bins()]
    met = set()
    for frequencies in bins:
        index = tuple(f % n for f, n in zip(frequencies, band.sizes, strict=True))
        assert index not in met
        met |= {index, negative(index, band.sizes)}
    assert met == {tuple(index) for index in np.argwhere(whole_mask(band)).tolist()}
    assert band.pair_count == len(bins)
    assert all(frequencies[-1] >= 0 for frequencies in bins)  # in the half-spectrum


@properties
@given(bands(), seeds)
def test_low_passing_twice_is_low_passing_once(band: Band, seed: int) -> None:
    once = low_pass(random(*band.sizes, seed=seed), band)
    # what a band keeps of a map may be small beside the map, whose rounding it carries
    assert (low_pass(once, band) - once).norm() < 1e-13


@properties
@given(grids, seeds)
def test_the_full_band_is_the_identity(sizes: tuple[int, ...], seed: int) -> None:
    band, maps = full_band(sizes), random(*sizes, seed=seed)
    assert band.is_full
    assert band.mask().all()
    assert band.realised_compression == 0
    assert band.real_sizes == sizes
    assert_close(low_pass(maps, band), maps)


@properties
@given(bands(), seeds, st.data())
def test_low_passing_commutes_with_circular_shifts(band: Band, seed: int, data: st.DataObject):
    maps, dims = random(*band.sizes, seed=seed), tuple(range(len(band.sizes)))
    shifts = tuple(data.draw(st.integers(0, n - 1)) for n in band.sizes)
    shifted_first = low_pass(maps.roll(shifts, dims), band)
    assert (shifted_first - low_pass(maps, band).roll(shifts, dims)).norm() < 1e-13  # rounding


@properties
@given(grids, seeds)
def test_parseval(sizes: tuple[int, ...], seed: int) -> None:
    maps = random(*sizes, seed=seed)
    power = torch.fft.rfftn(maps).abs().square() * torch.from_numpy(parseval_weights(sizes[-1]))
    assert_close(power.sum() / maps.numel(), maps.square().sum())


@properties
@given(grids)
def test_nested_bands_contain_each_other(sizes: tuple[int, ...]) -> None:
    nested = nested_bands(sizes)
    assert nested[0].kept == (1,) * len(sizes)
    assert nested[-1] == full_band(sizes)
    for smaller, larger in pairwise(nested):
        assert (larger.mask() | ~smaller.mask()).all()
        assert larger.kept_coefficients > smaller.kept_coefficients


@pytest.mark.parametrize("sizes", [(7,), (8,), (9, 9), (6, 6, 6)])
def test_on_equal_axes_the_nested_bands_keep_equal_numbers(sizes: tuple[int, ...]) -> None:
    halves = range(1, sizes[0] // 2 + 2)
    assert [band.kept for band in nested_bands(sizes)] == [(k,) * len(sizes) for k in halves]


def nearest_bands(sizes: tuple[int, ...], compression: Fraction) -> list[tuple[int, ...]]:
    """Every k whose realised fraction is nearest, in whole numbers, by trying all fractions."""
    halves = [n // 2 + 1 for n in sizes]
    fractions = {Fraction(j, half) for half in halves for j in range(1, half + 1)}
    distances = {}
    for fraction in fractions:
        kept = tuple(-(-fraction.numerator * half // fraction.denominator) for half in halves)
        block = kept[-1]
        for k, n in zip(kept[:-1], sizes[:-1], strict=True):
            block *= min(2 * k - 1, n)
        total = int(np.prod(sizes[:-1])) * halves[-1]
        distances[kept] = abs(1 - Fraction(block, total) - compression)
    least = min(distances.values())
    return [kept for kept, distance in distances.items() if distance == least]


@properties
@given(grids, st.integers(0, 99))
def test_compression_takes_the_nearest_band_and_of_two_the_larger(
    sizes: tuple[int, ...], percent: int
) -> None:
    band = band_from_compression(sizes, percent / 100)
    assert band.kept == max(nearest_bands(sizes, Fraction(percent, 100)))


@pytest.mark.parametrize("size", range(1, 41))
def test_a_tie_keeps_more(size: int) -> None:
    """Midway between two bands, in decimals that binary floating point does not hold exactly."""
    half = size // 2 + 1
    for kept in range(2, half + 1):
        midway = 1 - (2 * kept - 1) / (2 * half)
        for nudged in (midway, np.nextafter(midway, 0), np.nextafter(midway, 1)):
            assert band_from_compression((size,), float(nudged)).kept == (kept,)


@pytest.mark.parametrize(
    ("sizes", "compression", "kept", "realised"),
    [
        ((34, 34), 0.5, (13, 13), 1 - 25 * 13 / (34 * 18)),  # a 32-pixel map, 3x3, padding 1
        ((6, 6), 0.5, (3, 3), 0.375),
        ((34, 34), 0.85, (7, 7), 1 - 13 * 7 / (34 * 18)),
        ((10, 6), 0.0, (6, 4), 0.0),
        ((9,), 0.99, (1,), 0.8),  # at least one coefficient
        ((1, 1), 0.9, (1, 1), 0.0),
    ],
)
def test_examples_of_compression(
    sizes: tuple[int, ...], compression: float, kept: tuple[int, ...], realised: float
) -> None:
    band = band_from_compression(sizes, compression)
    assert band.kept == kept
    assert band.realised_compression == pytest.approx(realised, abs=1e-15)


@properties
@given(grids)
def test_no_compression_is_exactly_the_full_spectrum(sizes: tuple[int, ...]) -> None:
    assert band_from_compression(sizes, 0.0) == full_band(sizes)


@properties
@given(grids, st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_more_compression_never_keeps_more(sizes: tuple[int, ...], a: float, b: float) -> None:
    less, more = (band_from_compression(sizes, c).kept_coefficients for c in sorted((a, b)))
    assert less >= more


@pytest.mark.parametrize(
    ("compression", "rows", "columns", "discarded"),
    [(0.5, 89, 45, 0.519), (0.48, 91, 46, None), (0.85, 49, 25, None)],
)
def test_the_choice_of_the_papers_code_is_a_band(
    compression: float, rows: int, columns: int, discarded: float | None
) -> None:
    """Its k = int(half * sqrt(1 - c)) on its grid of 128 points."""
    kept = int((128 // 2 + 1) * (1 - compression) ** 0.5)
    mask = Band((128, 128), (kept, kept)).mask()
    assert (mask.any(1).sum(), mask.any(0).sum()) == (rows, columns)
    if discarded is not None:
        assert 1 - mask.double().mean().item() == pytest.approx(discarded, abs=5e-4)


@pytest.mark.parametrize(
    ("sizes", "kept", "message"),
    [
        ((6,), (0,), "band is 0 on axis 0, but a grid of 6 points has 1 to 4 half-spectrum"),
        ((6, 5), (4, 4), "band is 4 on axis 1, but a grid of 5 points has 1 to 3 half-spectrum"),
        ((6, 5), (4,), "band (4,) has not one entry per axis of (6, 5)"),
    ],
)
def test_a_band_outside_its_grid(
    sizes: tuple[int, ...], kept: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Band(sizes, kept)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"compression": 1.0}, ValueError, "compression is 1.0, allowed is 0 <= compression < 1"),
        ({"compression": -0.1}, ValueError, "compression is -0.1, allowed is 0 <= compression < 1"),
        ({"compression": float("nan")}, ValueError, "compression is nan, allowed is 0 <= compr"),
        ({"compression": "half"}, TypeError, "compression must be a number, got 'half'"),
        ({"compression": True}, TypeError, "compression must be a number, got True"),
        ({"energy": 0.0}, ValueError, "energy is 0.0, allowed is 0 < energy <= 1"),
        ({"energy": 1.5}, ValueError, "energy is 1.5, allowed is 0 < energy <= 1"),
        ({"energy": float("nan")}, ValueError, "energy is nan, allowed is 0 < energy <= 1"),
        ({"energy": [0.5]}, TypeError, "energy must be a number, got [0.5]"),
        ({"band": 0}, ValueError, "band is 0, allowed is at least 1 coefficient per axis"),
        ({"band": (3, -1)}, ValueError, "band is (3, -1), allowed is at least 1 coefficient"),
        ({"band": 2.5}, TypeError, "band must be whole numbers, got 2.5"),
        ({"band": (2, "3")}, TypeError, "band must be whole numbers, got (2, '3')"),
        ({"band": ()}, ValueError, "band is (), allowed is one number, or one per axis"),
        (
            {"compression": 0.5, "energy": 0.9},
            ValueError,
            "compression and energy are given; give at most one of compression, energy and band",
        ),
        ({"energy": 0.5, "band": 3}, ValueError, "energy and band are given; give at most one"),
        (
            {"energy_mode": "medium"},
            ValueError,
            "energy_mode is 'medium', allowed are 'coarse', 'fine'",
        ),
    ],
)
def test_messages_about_the_band(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        check_band_arguments(**{"compression": None, "energy": None, "band": None, **arguments})


def test_what_is_allowed_raises_nothing() -> None:
    allowed = {
        "compression": (0, 0.0, 0.999),
        "energy": (1, 1.0, 1e-9),
        "band": (1, (1, 2), [3, 4, 5]),
    }
    for name, values in allowed.items():
        for value, mode in product(values, ("coarse", "fine")):
            arguments = {"compression": None, "energy": None, "band": None, name: value}
            check_band_arguments(**arguments, energy_mode=mode)
