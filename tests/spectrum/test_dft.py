from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passband.spectrum.band import Band
from passband.spectrum.dft import filter_transform, fourier_basis, hermitian_packing, transform
from tests.spectrum.strategies import bands, grids, seeds
from tests.support import assert_close, properties, random


def complex_coefficients(maps: torch.Tensor, band: Band) -> torch.Tensor:
    """The orthonormal DFT at the band's bins: (bins, ...) of maps (N1, .., ...)."""
    dims = tuple(range(len(band.sizes)))
    spectrum = torch.fft.fftn(maps, dim=dims, norm="ortho")
    return spectrum[tuple(torch.from_numpy(column) for column in band.bins().T)]


def to_basis(maps: torch.Tensor, band: Band) -> torch.Tensor:
    bases = [fourier_basis(n, k).T for n, k in zip(band.sizes, band.kept, strict=True)]
    return transform(maps, bases, 0)


def from_basis(coefficients: torch.Tensor, band: Band) -> torch.Tensor:
    bases = [fourier_basis(n, k) for n, k in zip(band.sizes, band.kept, strict=True)]
    return transform(coefficients, bases, 0)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 128])
def test_the_basis_is_orthonormal(size: int) -> None:
    for kept in range(1, size // 2 + 2):
        q = fourier_basis(size, kept)
        assert q.shape == (size, min(2 * kept - 1, size))
        assert_close(q.T @ q, torch.eye(q.shape[1], dtype=q.dtype))


@properties
@given(bands(), seeds)
def test_projecting_on_the_basis_is_masking_the_spectrum(band: Band, seed: int) -> None:
    maps = random(*band.sizes, seed=seed)
    coefficients = to_basis(maps, band)
    assert coefficients.shape == band.real_sizes
    expected = torch.fft.irfftn(torch.fft.rfftn(maps) * band.mask(), s=band.sizes)
    # what is kept of a map may be small beside the map, whose rounding it carries
    assert (from_basis(coefficients, band) - expected).norm() <= 1e-13 * maps.norm()


@properties
@given(bands(), seeds)
def test_packing_gives_the_complex_coefficients(band: Band, seed: int) -> None:
    """Of pairs each once, times sqrt(2), so that the energy is that of both."""
    maps = random(*band.sizes, 3, seed=seed)
    z = to_basis(maps, band).flatten(0, -2)
    real, imag = hermitian_packing(band, torch.float64).pack(z)
    expected = complex_coefficients(maps, band)
    pairs = torch.tensor(
        [any(2 * f % n for f, n in zip(bin, band.sizes, strict=True)) for bin in band.bins()]
    )
    expected = expected * torch.where(pairs, 2.0, 1.0).double().sqrt()[:, None]
    # the same, where the kept part of the map is small beside the map
    assert (torch.complex(real, imag) - expected).norm() <= 1e-13 * maps.norm()


@properties
@given(bands(), seeds)
def test_unpacking_inverts_packing_and_is_its_adjoint(band: Band, seed: int) -> None:
    packing = hermitian_packing(band, torch.float64)
    z = random(int(np.prod(band.real_sizes)), 2, seed=seed)
    real, imag = packing.pack(z)
    assert real.shape == imag.shape == (band.pair_count, 2)
    assert_close(packing.unpack(real, imag), z)
    # <pack z, y> = <z, unpack y> for any y, also where the imaginary part of a bin is always zero
    y = [random(band.pair_count, 2, seed=seed + 1 + part) for part in range(2)]
    there, back = (real * y[0] + imag * y[1]).sum(), (z * packing.unpack(*y)).sum()
    assert (there - back).abs() <= 1e-13 * z.norm() * (y[0].norm() + y[1].norm())


@properties
@given(bands(), seeds, st.data())
def test_the_filters_transform_is_the_dft_of_the_dilated_filter(band, seed: int, data) -> None:
    """On the whole grid, whatever of it the filter fills, also where it wraps around."""
    dilation = tuple(data.draw(st.integers(1, 3)) for _ in band.sizes)
    kernel = tuple(data.draw(st.integers(1, 3)) for _ in band.sizes)
    taps = random(*kernel, seed=seed)
    on_grid = torch.zeros(band.sizes, dtype=torch.float64)
    for j in product(*map(range, kernel)):
        place = tuple(t * d % n for t, d, n in zip(j, dilation, band.sizes, strict=True))
        on_grid[place] += taps[j]
    expected = torch.fft.fftn(on_grid)[tuple(torch.from_numpy(c) for c in band.bins().T)]
    real, imag = filter_transform(band, kernel, dilation) @ taps.flatten()
    assert (torch.complex(real, imag) - expected).norm() <= 1e-12 * taps.norm()


@properties
@given(grids, seeds, st.data())
def test_transform_multiplies_each_axis_by_its_matrix(sizes, seed: int, data) -> None:
    maps = random(2, *sizes, 3, seed=seed)
    matrices, expected = [], maps.numpy()
    for axis, size in enumerate(sizes, 1):
        rows = data.draw(st.integers(0, 4))
        matrices.append(random(rows, size, seed=seed + axis) if rows else None)
        if rows:
            product = np.tensordot(matrices[-1].numpy(), expected, (1, axis))
            expected = np.moveaxis(product, 0, axis)
    assert_close(transform(maps, matrices, 1), torch.from_numpy(expected.copy()))


def test_large_grids_lose_nothing() -> None:
    """Angles are reduced before they are rounded: at 4096 points as exact as at 8."""
    band = Band((4096,), (2049,))
    maps = random(4096)
    assert_close(from_basis(to_basis(maps, band), band), maps)
    real, imag = filter_transform(band, (5,), (700,))
    steps = torch.fft.fft(torch.eye(4096, dtype=torch.float64)[2800])[:2049]
    assert_close(real[:, 4], steps.real)
    assert_close(imag[:, 4], steps.imag)
