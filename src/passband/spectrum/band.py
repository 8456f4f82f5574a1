"""Frequencies, and which of them a band keeps: the only home of these rules.

A real axis of N points has the half-spectrum frequencies 0..N//2, which here is called its `half`
(N//2 + 1 coefficients). A band keeps k of them per axis: the last axis keeps frequencies 0..k-1,
every other axis keeps |f| <= k-1. A real signal makes the coefficient at -f the conjugate of the
one at f, so a band that keeps f keeps -f, and for even N the Nyquist frequency N/2, its own
negative, belongs to the full band only.

In real numbers the same band is spanned, per axis, by the constant, the cosines and the sines of
the kept frequencies: 2k-1 functions, or N at full band. See `Band.real_sizes`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ENERGY_MODES = ("coarse", "fine")


def half_size(size: int) -> int:
    """Number of half-spectrum coefficients of a real axis of `size` points.

    Examples:
        >>> half_size(34), half_size(9)
        (18, 5)
    """
    return size // 2 + 1


def is_self_conjugate(frequency: int, size: int) -> bool:
    """Whether a frequency is its own negative: zero, and N/2 for even N."""
    return 2 * frequency % size == 0


def parseval_weights(size: int) -> npt.NDArray[np.float64]:
    """How often each half-spectrum coefficient of the last axis counts in an energy.

    The mirror half is not stored, so interior coefficients count twice:
    sum |x|^2 = sum w |X|^2 / N.

    Examples:
        >>> parseval_weights(6).tolist(), parseval_weights(5).tolist()
        ([1.0, 2.0, 2.0, 1.0], [1.0, 2.0, 2.0])
    """
    return np.array(
        [1.0 if is_self_conjugate(f, size) else 2.0 for f in range(half_size(size))], np.float64
    )


def signed_frequencies(size: int) -> npt.NDArray[np.int64]:
    """Integer frequencies of a full axis, in the order of torch.fft: 0, 1, ..., -2, -1.

    Examples:
        >>> signed_frequencies(5).tolist()
        [0, 1, 2, -2, -1]
    """
    index = np.arange(size)
    return np.where(index < (size + 1) // 2, index, index - size)


@dataclass(frozen=True)
class Band:
    """The low-frequency block kept of a spectrum of one to three axes.

    Args:
        sizes: Points of the grid per axis, N.
        kept: Half-spectrum coefficients kept per axis, 1 <= k <= N//2 + 1.

    Raises:
        ValueError: A k is outside its range, or the numbers of axes differ.

    Examples:
        >>> band = Band(sizes=(34, 34), kept=(13, 13))
        >>> band.kept_coefficients, band.coefficients, round(band.realised_compression, 3)
        (325, 612, 0.469)
        >>> band.real_sizes
        (25, 25)
    """

    sizes: tuple[int, ...]
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.kept):
            raise ValueError(f"band {self.kept} has not one entry per axis of {self.sizes}")
        for axis, (size, kept) in enumerate(zip(self.sizes, self.kept, strict=True)):
            if not 1 <= kept <= half_size(size):
                raise ValueError(
                    f"band is {kept} on axis {axis}, but a grid of {size} points has 1 to "
                    f"{half_size(size)} half-spectrum coefficients to keep"
                )

    def is_full_axis(self, axis: int) -> bool:
        """Whether the axis keeps every frequency, Nyquist included."""
        return self.kept[axis] == half_size(self.sizes[axis])

    @cached_property
    def is_full(self) -> bool:
        """Whether nothing is discarded."""
        return all(self.is_full_axis(axis) for axis in range(len(self.sizes)))

    @property
    def cosines(self) -> tuple[int, ...]:
        """Cosines kept per axis, frequency zero and a kept Nyquist frequency included."""
        return self.kept

    @property
    def sines(self) -> tuple[int, ...]:
        """Sines kept per axis: those of frequencies that are not their own negative."""
        return tuple(
            sum(not is_self_conjugate(f, size) for f in range(kept))
            for size, kept in zip(self.sizes, self.kept, strict=True)
        )

    @cached_property
    def real_sizes(self) -> tuple[int, ...]:
        """Real degrees of freedom per axis: 2k-1, or N where the axis is full."""
        return tuple(c + s for c, s in zip(self.cosines, self.sines, strict=True))

    @property
    def pair_count(self) -> int:
        """Complex coefficients in the band, one of each conjugate pair; the length of `bins`."""
        alone = math.prod(c - s for c, s in zip(self.cosines, self.sines, strict=True))
        return (math.prod(self.real_sizes) + alone) // 2

    @property
    def coefficients(self) -> int:
        """Coefficients of the whole half-spectrum."""
        return math.prod(self.sizes[:-1]) * half_size(self.sizes[-1])

    @property
    def kept_coefficients(self) -> int:
        """Coefficients of the half-spectrum inside the band."""
        return math.prod(self.real_sizes[:-1]) * self.kept[-1]

    @property
    def realised_compression(self) -> float:
        """Fraction of the half-spectrum's coefficients that the band discards."""
        return 1 - self.kept_coefficients / self.coefficients

    def mask(self, device: torch.device | None = None) -> Tensor:
        """True inside the band, over the half-spectrum as torch.fft.rfftn lays it out.

        Returns:
            Boolean tensor of shape (N1, ..., N//2 + 1).

        Examples:
            >>> Band((4, 4), (2, 2)).mask().int().tolist()
            [[1, 1, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0]]
        """
        axes = [np.abs(signed_frequencies(size)) for size in self.sizes[:-1]]
        axes.append(np.arange(half_size(self.sizes[-1])))
        inside = np.ones((1,) * len(axes), bool)
        for axis, frequencies in enumerate(axes):
            shape = [1] * len(axes)
            shape[axis] = -1
            inside = inside & (frequencies < self.kept[axis]).reshape(shape)
        return torch.from_numpy(inside).to(device)

    def bins(self) -> npt.NDArray[np.int64]:
        """Signed frequencies of the band, one of each conjugate pair.

        Returns:
            Integer array (bins, axes). The representative of a pair is the one whose last
            frequency that is not its own negative is positive, so that it lies in the half-spectrum
            that torch.fft.rfftn stores.

        Examples:
            >>> Band((5, 5), (2, 2)).bins().tolist()
            [[0, 0], [0, 1], [1, 0], [1, 1], [-1, 1]]
        """
        axes = []
        for size, kept in zip(self.sizes, self.kept, strict=True):
            up = list(range(kept))
            axes.append(up + [-f for f in reversed(up) if not is_self_conjugate(f, size)])

        def represents(frequencies: tuple[int, ...]) -> bool:
            paired = [
                f
                for f, n in zip(frequencies, self.sizes, strict=True)
                if not is_self_conjugate(f, n)
            ]
            return not paired or paired[-1] > 0

        return np.array([f for f in product(*axes) if represents(f)], np.int64)


def full_band(sizes: Sequence[int]) -> Band:
    """The band that discards nothing.

    Examples:
        >>> full_band((6, 5)).kept
        (4, 3)
    """
    return Band(tuple(sizes), tuple(half_size(size) for size in sizes))


@lru_cache(maxsize=256)
def nested_bands(sizes: tuple[int, ...]) -> tuple[Band, ...]:
    """All bands that keep the same fraction of each axis's half-spectrum, smallest first.

    For a fraction r the band keeps k = ceil(r * half) of each axis, at least 1. Every band contains
    the one before it and the last is the full band; on a square grid they are k = 1, 2, ..., half.

    Examples:
        >>> [band.kept for band in nested_bands((8, 4))]
        [(1, 1), (2, 1), (2, 2), (3, 2), (4, 2), (4, 3), (5, 3)]
    """
    halves = [half_size(size) for size in sizes]
    common = math.lcm(*halves)
    # fractions r = t / common, in whole numbers: k = ceil(t * half / common)
    steps = sorted({j * (common // half) for half in halves for j in range(1, half + 1)})
    return tuple(
        Band(sizes, kept)
        for kept in dict.fromkeys(
            tuple(-(-step * half // common) for half in halves) for step in steps
        )
    )


@lru_cache(maxsize=1024)
def band_from_compression(sizes: tuple[int, ...], compression: float) -> Band:
    """The nested band whose realised discarded fraction is nearest to `compression`.

    A tie keeps more, and what differs by rounding is a tie. Zero is exactly the full band.

    Examples:
        >>> band_from_compression((34, 34), 0.5).kept
        (13, 13)
        >>> band_from_compression((6, 6), 0.5).realised_compression
        0.375
        >>> band_from_compression((8,), 0.1).kept  # as near to 0 as to 0.2
        (5,)
    """
    largest_first = nested_bands(sizes)[::-1]
    distances = [abs(band.realised_compression - compression) for band in largest_first]
    nearest = min(distances)
    return next(
        band
        for band, distance in zip(largest_first, distances, strict=True)
        if distance <= nearest + 1e-12
    )


@dataclass(frozen=True)
class CoefficientOrder:
    """The order in which energy bands take up coefficients; see `coefficient_order`."""

    rank: Tensor
    """Long tensor (N1, ..., N//2 + 1): place of each coefficient; conjugates share one."""
    shell_of_rank: npt.NDArray[np.int64]
    """Index into `nested_bands` of the smallest band that holds the coefficient of a rank."""


@lru_cache(maxsize=64)
def coefficient_order(sizes: tuple[int, ...]) -> CoefficientOrder:
    """Coefficients of a half-spectrum by shell (what each nested band adds), then by raster.

    In columns that are their own mirror image (frequency zero, and Nyquist for even N, of the last
    axis) the coefficients at f and -f are conjugates and share a rank.
    """
    bands = nested_bands(sizes)
    shape = (*sizes[:-1], half_size(sizes[-1]))
    shell = np.full(shape, len(bands), np.int64)
    for index, band in enumerate(bands):
        shell[band.mask().numpy() & (shell == len(bands))] = index
    grid = np.indices(shape)
    raster = np.arange(math.prod(shape)).reshape(shape)
    mirrored = np.ravel_multi_index(
        [*((-g) % n for g, n in zip(grid[:-1], sizes[:-1], strict=True)), grid[-1]], shape
    )
    own_mirror = np.array([is_self_conjugate(f, sizes[-1]) for f in range(shape[-1])])
    first = np.where(own_mirror, np.minimum(raster, mirrored), raster)
    keys = shell * raster.size + first
    values, rank = np.unique(keys, return_inverse=True)
    return CoefficientOrder(torch.from_numpy(rank.reshape(shape)), values // raster.size)


def check_band_arguments(
    compression: float | None,
    energy: float | None,
    band: int | Sequence[int] | None,
    energy_mode: str = "coarse",
) -> None:
    """Check what says how much of a spectrum to keep.

    Raises:
        TypeError: A value is not a number.
        ValueError: More than one is given, or a value is outside its range.
    """
    given = {
        name: value
        for name, value in (("compression", compression), ("energy", energy), ("band", band))
        if value is not None
    }
    if len(given) > 1:
        raise ValueError(
            f"{' and '.join(given)} are given; give at most one of compression, energy and band"
        )
    for name, value in given.items():
        if name == "band" and isinstance(value, (tuple, list)):
            entries: Sequence[object] = value
            if not entries:
                raise ValueError(f"band is {value!r}, allowed is one number, or one per axis")
        else:
            entries = (value,)
        for entry in entries:
            kinds = (int,) if name == "band" else (int, float)
            if isinstance(entry, bool) or not isinstance(entry, kinds):
                kind = "whole numbers" if name == "band" else "a number"
                raise TypeError(f"{name} must be {kind}, got {value!r}")
    if compression is not None and not 0 <= compression < 1:
        raise ValueError(
            f"compression is {compression}, allowed is 0 <= compression < 1: the fraction of the "
            "spectrum to discard"
        )
    if energy is not None and not 0 < energy <= 1:
        raise ValueError(
            f"energy is {energy}, allowed is 0 < energy <= 1: the fraction of the energy to keep"
        )
    if band is not None and min(band if isinstance(band, (tuple, list)) else (band,)) < 1:
        raise ValueError(f"band is {band}, allowed is at least 1 coefficient per axis")
    if energy_mode not in ENERGY_MODES:
        raise ValueError(
            f"energy_mode is {energy_mode!r}, allowed are {', '.join(map(repr, ENERGY_MODES))}"
        )
