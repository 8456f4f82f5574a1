import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passband.ops.spectral.frame import Frame, self_conjugate_bins
from tests.support import assert_close, properties, random

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=2).map(tuple)


@properties
@given(sizes, st.integers(0, 2))
def test_the_coefficients_are_those_of_the_orthonormal_dft(size: tuple[int, ...], pad: int) -> None:
    frame = Frame.of(size, [(pad, pad)] * len(size))
    maps = random(2, 3, *size)
    spectrum = frame.from_map(maps)
    padded = torch.nn.functional.pad(maps, [pad, pad] * len(size))
    axes = tuple(range(2, 2 + len(size)))
    full = torch.fft.fftn(padded, dim=axes, norm="ortho")
    bins = torch.from_numpy(frame.band.bins())
    index = tuple(column % n for column, n in zip(bins.T, frame.grid, strict=True))
    expected = full[(slice(None), slice(None), *index)].permute(2, 0, 1)
    # the imaginary part of an impulse-like map can vanish: both parts are compared at once
    assert_close(spectrum, torch.stack([expected.real, expected.imag]))


@properties
@given(sizes, st.integers(0, 2))
def test_the_way_back(size: tuple[int, ...], pad: int) -> None:
    frame = Frame.of(size, [(pad, pad + 1)] * len(size))
    maps = random(2, 3, *size)
    assert_close(frame.to_map(frame.from_map(maps)), maps)
    assert_close(frame.mean(frame.from_map(maps)), maps.flatten(2).mean(2))


@properties
@given(sizes)
def test_what_is_its_own_conjugate_is_real(size: tuple[int, ...]) -> None:
    frame = Frame.of(size)
    spectrum = frame.from_map(random(1, 1, *size))
    alone = self_conjugate_bins(frame.band)
    assert len(alone) == math.prod(2 - n % 2 if n > 1 else 1 for n in size)
    assert not spectrum[1, alone].any()


def test_the_numbers_are_as_many_as_the_points() -> None:
    frame = Frame.of((9, 7))
    assert 2 * frame.bins - len(self_conjugate_bins(frame.band)) == 9 * 7


def test_energy_counts_pairs_twice() -> None:
    frame = Frame.of((6, 5))
    maps = random(1, 1, 6, 5)
    spectrum = frame.from_map(maps)
    weights = torch.full((frame.bins,), 2.0, dtype=torch.float64)
    weights[self_conjugate_bins(frame.band)] = 1
    energy = (spectrum.square().sum((0, 2, 3)) * weights).sum()
    assert_close(energy, maps.square().sum())


@pytest.mark.parametrize("name", ["from_map", "to_map", "to_real"])
def test_derivatives(name: str) -> None:
    frame = Frame.of((4, 5), [(1, 0), (0, 2)], compression=0.3)
    shape = (2, 3, 4, 5) if name == "from_map" else (2, frame.bins, 2, 3)
    x = random(*shape).requires_grad_()
    assert torch.autograd.gradcheck(getattr(frame, name), x)
    assert torch.autograd.gradgradcheck(getattr(frame, name), x)
