from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passband.spectrum.band import full_band, nested_bands
from passband.spectrum.energy import band_energy, band_from_energy, coefficient_energies
from tests.spectrum.strategies import grids, seeds
from tests.support import assert_close, properties, random

energies = st.floats(0.01, 0.999)


def inside_of(sizes: tuple[int, ...], kept: tuple[int, ...]) -> np.ndarray:
    """The block |f| <= k - 1 of the full spectrum; with k = N//2 + 1 that is the whole axis."""
    inside = np.ones(sizes, bool)
    for axis, (n, k) in enumerate(zip(sizes, kept, strict=True)):
        near = np.minimum(np.arange(n), n - np.arange(n)) <= k - 1
        inside &= near.reshape([-1 if a == axis else 1 for a in range(len(sizes))])
    return inside


def whole_power(maps: torch.Tensor, sizes: tuple[int, ...]) -> np.ndarray:
    """Energy of every coefficient of the full spectrum, without a word of half-spectra."""
    axes = tuple(range(-len(sizes), 0))
    power = np.abs(np.fft.fftn(maps.numpy(), s=sizes, axes=axes)) ** 2
    return power.sum(axis=tuple(range(maps.dim() - len(sizes))))


def maps_on(sizes: tuple[int, ...], seed: int) -> torch.Tensor:
    return random(2, 3, *sizes, seed=seed) + 0.5


@properties
@given(grids, seeds)
def test_coefficient_energies_are_those_of_the_full_spectrum(sizes, seed: int) -> None:
    """Maps smaller than the grid are filled up with zeros; a mirrored pair is counted together."""
    small = tuple(max(1, n - 1) for n in sizes)
    maps = maps_on(small, seed)
    power, expected = whole_power(maps, sizes), np.zeros((*sizes[:-1], sizes[-1] // 2 + 1))
    for index in np.ndindex(*sizes):
        mirrored = tuple(-i % n for i, n in zip(index, sizes, strict=True))
        stored = index if index[-1] < expected.shape[-1] else mirrored
        expected[stored] += power[index]
    assert_close(coefficient_energies(maps, sizes), torch.from_numpy(expected))
    assert_close(coefficient_energies(maps, sizes).sum(), np.prod(sizes) * maps.square().sum())


@properties
@given(grids, seeds)
def test_the_energy_of_a_band_is_that_of_its_block(sizes, seed: int) -> None:
    maps = maps_on(sizes, seed)
    power = whole_power(maps, sizes)
    for band in nested_bands(sizes):
        expected = power[inside_of(sizes, band.kept)].sum() / power.sum()
        assert band_energy(maps, band).item() == pytest.approx(expected, rel=1e-12)  # rounding


@properties
@given(grids, seeds)
def test_the_energy_grows_with_the_band(sizes, seed: int) -> None:
    maps = maps_on(sizes, seed)
    parts = [band_energy(maps, band).item() for band in nested_bands(sizes)]
    assert all(a <= b + 1e-14 for a, b in pairwise(parts))  # rounding
    assert parts[-1] == 1


@properties
@given(grids, seeds, energies)
def test_coarse_is_the_smallest_band_that_holds_the_energy(sizes, seed, energy: float) -> None:
    maps = maps_on(sizes, seed)
    power = whole_power(maps, sizes)
    enough = [
        band
        for band in nested_bands(sizes)
        if power[inside_of(sizes, band.kept)].sum() >= energy * power.sum()
    ]
    chosen = band_from_energy(maps, sizes, energy)
    assert chosen.band == enough[0]
    assert chosen.mask is None


def fine_by_steps(power: np.ndarray, sizes: tuple[int, ...], energy: float) -> np.ndarray:
    """Coefficients added one by one, with their conjugates, until the energy is there."""
    kept, before = np.zeros(sizes, bool), np.zeros(sizes, bool)
    half = (*sizes[:-1], sizes[-1] // 2 + 1)
    for band in nested_bands(sizes):
        shell = inside_of(sizes, band.kept) & ~before
        for index in np.ndindex(*half):  # raster order of the half-spectrum
            if not shell[index] or kept[index]:
                continue
            kept[index] = kept[tuple(-i % n for i, n in zip(index, sizes, strict=True))] = True
            if power[kept].sum() >= energy * power.sum():
                return kept
        before |= shell
    return kept


@properties
@given(grids, seeds, energies)
def test_fine_is_the_smallest_prefix_that_holds_the_energy(sizes, seed, energy: float) -> None:
    maps = maps_on(sizes, seed)
    whole = fine_by_steps(whole_power(maps, sizes), sizes, energy)
    chosen = band_from_energy(maps, sizes, energy, "fine")
    assert chosen.mask is not None
    np.testing.assert_array_equal(chosen.mask.numpy(), whole[..., : sizes[-1] // 2 + 1])
    assert chosen.band == band_from_energy(maps, sizes, energy).band
    assert (chosen.band.mask() | ~chosen.mask).all()


@properties
@given(grids, seeds, energies)
def test_fine_keeps_conjugates_together(sizes, seed, energy: float) -> None:
    """So that what is kept is the spectrum of a real map."""
    maps, dims = maps_on(sizes, seed), tuple(range(2, 2 + len(sizes)))
    mask = band_from_energy(maps, sizes, energy, "fine").mask
    kept = torch.fft.rfftn(maps, dim=dims) * mask
    there_and_back = torch.fft.rfftn(torch.fft.irfftn(kept, s=sizes, dim=dims), dim=dims)
    # the inverse drops what is not Hermitian, which would then be missing
    assert_close(torch.view_as_real(there_and_back), torch.view_as_real(kept))


@pytest.mark.parametrize("mode", ["coarse", "fine"])
@pytest.mark.parametrize("energy", [1, 1.0])
def test_all_the_energy_is_the_full_band(mode: str, energy: float) -> None:
    """Even of a map whose energy is all in one coefficient."""
    chosen = band_from_energy(torch.ones(1, 1, 6, 5), (6, 5), energy, mode)
    assert chosen.band == full_band((6, 5))
    assert chosen.mask is None


@pytest.mark.parametrize("mode", ["coarse", "fine"])
@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (0, 3, 6, 5)])
def test_maps_without_energy_keep_one_coefficient(mode: str, shape: tuple[int, ...]) -> None:
    maps = torch.zeros(shape)
    chosen = band_from_energy(maps, (6, 5), 0.9, mode)
    assert chosen.band.kept == (1, 1)
    assert band_energy(maps, chosen.band) == 1


@pytest.mark.parametrize("mode", ["coarse", "fine"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_maps_that_are_not_finite_keep_everything(mode: str, value: float) -> None:
    maps = torch.ones(1, 1, 6, 5)
    maps[0, 0, 2, 2] = value
    chosen = band_from_energy(maps, (6, 5), 0.5, mode)
    assert chosen.band == full_band((6, 5))
    assert chosen.mask is None


def test_the_energy_is_that_of_the_whole_batch() -> None:
    """One map alone would keep (1,) and the other (4,)."""
    n = torch.arange(16, dtype=torch.float64)
    waves = torch.stack([torch.ones(16).double(), torch.cos(2 * torch.pi * 3 * n / 16)])
    assert band_from_energy(waves[:1, None], (16,), 0.6).band.kept == (1,)
    assert band_from_energy(waves[1:, None], (16,), 0.6).band.kept == (4,)
    # energies 16 and 8: two thirds lie in the constant
    assert band_from_energy(waves[:, None], (16,), 0.66).band.kept == (1,)
    assert band_from_energy(waves[:, None], (16,), 0.67).band.kept == (4,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_energies_of_shorter_types(dtype: torch.dtype) -> None:
    """Computed in float32 at least: squares up to 1e6 would not fit into float16."""
    maps = (random(2, 3, 7, 6) * 30).to(dtype)
    found = coefficient_energies(maps, (7, 6))
    assert found.dtype == torch.float32
    # float32 rounding; the maps themselves are the same numbers
    assert_close(found.double(), coefficient_energies(maps.double(), (7, 6)), 1e-6)
