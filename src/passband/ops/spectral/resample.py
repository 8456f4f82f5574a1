"""Fewer points, from spectrum to spectrum: the band cropped, or the spectrum folded.

- `crop`: the map is low-passed and sampled (spectral pooling, Rippel et al., NeurIPS 2015). Every
  coefficient that is kept is the old one, scaled so that the map's values stay.
- `fold`: every s-th point is taken. Frequencies that differ by a multiple of the new size become
  one: their coefficients are added. With a box before it, that is average pooling.
"""

import math
from itertools import product

import numpy as np
import torch
from torch import Tensor

from passband.ops.spectral.frame import Frame
from passband.ops.spectral.linear_map import linear_map
from passband.ops.tracing import spatial_size
from passband.spectrum.band import Band, is_self_conjugate
from passband.spectrum.constants import cached_constant
from passband.spectrum.dft import Gather, fourier_basis, sparse_rows, transform


def cropped_frame(frame: Frame, factor: tuple[int, ...]) -> Frame:
    """The frame after spectral pooling: 1 / factor of the points, rounded down.

    An even number of points gets no Nyquist coefficient: the low-passed map has a pair of
    coefficients there, and half of them would be lost.

    Raises:
        ValueError: The map has fewer points than the factor, or the frame is of a padded map.

    Examples:
        >>> small = cropped_frame(Frame.of((28, 9)), (2, 2))
        >>> small.size, small.kept
        ((14, 4), (7, 2))
    """
    _check_unpadded(frame)
    size = tuple(n // s for n, s in zip(frame.size, factor, strict=True))
    if min(size) < 1:
        raise ValueError(f"the map has {frame.size} points, fewer than the pooling of {factor}")
    kept = tuple(
        k if m == n else min(k, (m + 1) // 2)
        for m, n, k in zip(size, frame.size, frame.kept, strict=True)
    )
    return Frame(size, frame.padding, kept)


def crop(spectrum: Tensor, frame: Frame, smaller: Frame) -> Tensor:
    """The spectrum (2, F', B, C) of the low-passed and sampled maps.

    Args:
        spectrum: (2, F, B, C).
        frame: Its frame.
        smaller: One of `cropped_frame`.

    Examples:
        >>> frame = Frame.of((8,))
        >>> smaller = cropped_frame(frame, (2,))
        >>> constant = frame.from_map(torch.ones(1, 1, 8))
        >>> smaller.to_map(crop(constant, frame, smaller)).round(decimals=4)
        tensor([[[1., 1., 1., 1.]]])
    """
    scale = math.sqrt(math.prod(smaller.grid) / math.prod(frame.grid))
    return select(spectrum, frame, smaller) * scale


def select(spectrum: Tensor, frame: Frame, smaller: Frame) -> Tensor:
    """The coefficients that a smaller frame holds too, as they are."""
    if frame.kept == smaller.kept:
        return spectrum
    places = _places(frame.band, smaller.band).to(spectrum.device)

    def spread(kept: Tensor) -> Tensor:
        out = kept.new_zeros(2, frame.bins, *kept.shape[2:])
        return out.index_copy_(1, places, kept)

    return linear_map(spectrum, lambda x: x.index_select(1, places), spread)


def low_pass_and_sample(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """What `crop` does, from maps (B, C, n1, ..) to maps of `size` points.

    Examples:
        >>> low_pass_and_sample(torch.ones(1, 1, 9, 8), (4, 4)).shape
        torch.Size([1, 1, 4, 4])
    """
    matrices: list[Tensor | None] = [
        None if n == m else _sampling(n, m, maps.dtype, maps.device)
        for n, m in zip(spatial_size(maps), size, strict=True)
    ]
    return transform(maps, matrices, 2)


def folded_frame(frame: Frame, stride: tuple[int, ...]) -> Frame:
    """The frame after every s-th point was taken.

    Raises:
        ValueError: The stride does not divide the points, or the frame is of a padded map.
    """
    _check_unpadded(frame)
    if any(n % s for n, s in zip(frame.size, stride, strict=True)):
        raise ValueError(
            f"a spectrum of {frame.size} points cannot be folded by {stride}: the stride must "
            "divide them; use pool='spectral', or an activation on the map"
        )
    size = tuple(n // s for n, s in zip(frame.size, stride, strict=True))
    kept = tuple(min(k, m // 2 + 1) for k, m in zip(frame.kept, size, strict=True))
    return Frame(size, frame.padding, kept)


def fold(spectrum: Tensor, frame: Frame, stride: tuple[int, ...], average: bool = False) -> Tensor:
    """The spectrum (2, F', B, C) of every s-th point, or of the means of s points from there.

    Args:
        spectrum: (2, F, B, C).
        frame: Its frame; the result's is `folded_frame`.
        stride: Factor per axis.
        average: Average over the points that are left out.

    Examples:
        >>> frame = Frame.of((6,))
        >>> x = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]])
        >>> smaller = folded_frame(frame, (2,))
        >>> smaller.to_map(fold(frame.from_map(x), frame, (2,))).round(decimals=4)
        tensor([[[1., 3., 5.]]])
        >>> smaller.to_map(fold(frame.from_map(x), frame, (2,), average=True)).round(decimals=4)
        tensor([[[1.5000, 3.5000, 5.5000]]])
    """
    smaller = folded_frame(frame, stride)
    rows, columns = _folding(frame.band, smaller.band, average, spectrum.dtype, spectrum.device)
    folded = linear_map(spectrum.flatten(0, 1), rows, columns)
    return folded.view(2, smaller.bins, *spectrum.shape[2:])


def _check_unpadded(frame: Frame) -> None:
    if any(pad != (0, 0) for pad in frame.padding):
        raise ValueError(f"the frame has padding {frame.padding}; pool on the map")


@cached_constant
def _sampling(size: int, smaller: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Low-pass and sample one axis: (smaller, size)."""
    kept = (smaller + 1) // 2
    matrix = fourier_basis(smaller, kept) @ fourier_basis(size, kept).T
    return (matrix * math.sqrt(smaller / size)).to(device=device, dtype=dtype)


@cached_constant
def _places(band: Band, smaller: Band) -> Tensor:
    """Where the coefficients of a smaller band stand in a larger one."""
    known = {tuple(f): place for place, f in enumerate(band.bins().tolist())}
    return torch.tensor([known[tuple(f)] for f in smaller.bins().tolist()])


@cached_constant
def _folding(
    band: Band, smaller: Band, average: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Gather, Gather]:
    """The folding as a sparse real matrix from (2 F) to (2 F') numbers, and its transpose."""
    bins, out_bins = band.bins(), smaller.bins()
    known = {tuple(f): place for place, f in enumerate(bins.tolist())}
    stride = [n // m for n, m in zip(band.sizes, smaller.sizes, strict=True)]
    scale = 1 / math.sqrt(math.prod(stride))
    entries: list[tuple[int, int, float]] = []
    for row, target in enumerate(out_bins.tolist()):
        alone = all(is_self_conjugate(f, m) for f, m in zip(target, smaller.sizes, strict=True))
        for shifts in product(*(range(s) for s in stride)):
            alias = [
                _signed(f + m * t, n)
                for f, m, t, n in zip(target, smaller.sizes, shifts, band.sizes, strict=True)
            ]
            found = _representative(tuple(alias), known, band.sizes)
            if found is None:
                continue  # outside the band
            place, sign = found
            factor = scale * (_box(alias, band.sizes, stride) if average else 1.0)
            # (a + i b) (x + i sign y)
            a, b = factor.real, factor.imag
            entries += [(row, place, a), (row, place + len(bins), -b * sign)]
            if not alone:
                imag = row + len(out_bins)
                entries += [(imag, place, b), (imag, place + len(bins), a * sign)]
    kept = np.array([entry for entry in entries if entry[2] != 0.0])
    rows, columns, values = kept[:, 0].astype(np.int64), kept[:, 1].astype(np.int64), kept[:, 2]
    return (
        sparse_rows(rows, columns, values, 2 * len(out_bins), dtype, device),
        sparse_rows(columns, rows, values, 2 * len(bins), dtype, device),
    )


def _signed(frequency: int, size: int) -> int:
    """A frequency between -(N-1)//2 and N//2."""
    frequency %= size
    return frequency if frequency <= size // 2 else frequency - size


def _representative(
    frequencies: tuple[int, ...], known: dict[tuple[int, ...], int], sizes: tuple[int, ...]
) -> tuple[int, float] | None:
    """Place of the stored one of a conjugate pair, and the sign of its imaginary part."""
    if frequencies in known:
        return known[frequencies], 1.0
    mirrored = tuple(_signed(-f, n) for f, n in zip(frequencies, sizes, strict=True))
    return (known[mirrored], -1.0) if mirrored in known else None


def _box(frequencies: list[int], sizes: tuple[int, ...], stride: list[int]) -> complex:
    """What the mean over s points, from each point on, multiplies a frequency by."""
    value = 1.0 + 0.0j
    for f, n, s in zip(frequencies, sizes, stride, strict=True):
        value *= complex(np.exp(2j * np.pi * f * np.arange(s) / n).mean())
    return value
