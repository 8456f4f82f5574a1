"""The static shapes of one band-limited convolution: map, grid, filter, output."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch

from passband.ops.tracing import run_as_constant
from passband.spectrum.band import Band, band_from_compression, full_band


@dataclass(frozen=True)
class ConvGeometry:
    """Everything about a call that does not depend on values, batch or channels.

    Per axis the map of `size` points stands at `padding[0]` on a grid of `grid` points; the rest of
    the grid is zeros. The filter spans dilation * (kernel - 1) + 1 points, and outputs are taken
    every `stride` points, as long as the filter lies inside the padded map.

    Examples:
        >>> g = ConvGeometry((32,), ((1, 1),), (3,), (2,), (1,), 1, (34,), (13,))
        >>> g.padded_size, g.output_size, g.keeps_map
        ((34,), (16,), False)
    """

    size: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    grid: tuple[int, ...]
    kept: tuple[int, ...]

    @property
    def axes(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @cached_property
    def band(self) -> Band:
        """The band on the grid."""
        return Band(self.grid, self.kept)

    @cached_property
    def padded_size(self) -> tuple[int, ...]:
        """Points of the zero-padded map per axis."""
        return padded_size(self.size, self.padding)

    @cached_property
    def output_size(self) -> tuple[int, ...]:
        """Points of the output per axis."""
        return tuple(
            (n - span) // s + 1
            for n, span, s in zip(
                self.padded_size, filter_span(self.kernel, self.dilation), self.stride, strict=True
            )
        )

    @cached_property
    def keeps_map(self) -> bool:
        """Whether the map is no larger than its truncated spectrum, so that it is what is saved."""
        return math.prod(self.band.real_sizes) >= math.prod(self.size)


def padded_size(size: tuple[int, ...], padding: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """Points per axis of a map with `padding` zeros before and after it."""
    return tuple(n + before + after for n, (before, after) in zip(size, padding, strict=True))


def filter_span(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Points from the first to the last tap of a dilated filter, both counted."""
    return tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))


def conv_geometry(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    compression: float | None = None,
    band: int | Sequence[int] | None = None,
    fft_size: int | Sequence[int] | None = None,
) -> ConvGeometry:
    """The geometry that the arguments of a convolution mean for a map of `size` points.

    Args:
        size: Points of the map per axis.
        kernel: Taps of the filter per axis.
        stride: As in torch.nn.functional.conv1d and its siblings; so are the next three.
        padding: Zeros on both sides per axis, "same" or "valid".
        dilation: Distance between taps.
        groups: Groups of channels.
        compression: Fraction of the half-spectrum to discard.
        band: Half-spectrum coefficients to keep per axis.
        fft_size: Points of the grid per axis, at least the padded map; None is the padded map.

    Raises:
        ValueError: A value is outside its range, or the filter is larger than the padded map.
        TypeError: A value is not a whole number or a tuple of them.

    Examples:
        >>> conv_geometry((32, 32), (3, 3), padding=1, compression=0.5).kept
        (13, 13)
    """
    arguments = (
        size, kernel, stride, padding, dilation, groups, compression, band, fft_size,
    )  # fmt: skip
    if not torch.compiler.is_compiling():
        try:
            return _conv_geometry(tuple(size), tuple(kernel), *arguments[2:])
        except TypeError:  # of a list or a symbolic number; what is wrong is so below as well
            pass
    geometry: ConvGeometry = _cached_geometry(*(_static(argument) for argument in arguments))
    return geometry


def _static(value: Any) -> Any:
    """An argument in plain numbers and tuples, on which torch.compile specialises.

    `operator.index` is what turns a number that the compiler treats as dynamic into a constant.
    Fractions go through whole numbers of 2**-60 for that reason, which changes none above 2**-8.
    """
    if isinstance(value, (tuple, list)):
        return tuple(_static(entry) for entry in value)
    if isinstance(value, float):
        return operator.index(int(value * 2.0**60)) / 2.0**60
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return operator.index(value)
    return value


@lru_cache(maxsize=4096, typed=True)
def _conv_geometry(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: int | tuple[int, ...],
    padding: int | str | tuple[int, ...],
    dilation: int | tuple[int, ...],
    groups: int,
    compression: float | None,
    band: int | tuple[int, ...] | None,
    fft_size: int | tuple[int, ...] | None,
) -> ConvGeometry:
    axes = len(size)
    strides = per_axis("stride", stride, axes, 1)
    dilations = per_axis("dilation", dilation, axes, 1)
    span = filter_span(kernel, dilations)
    pads = _padding_pairs(padding, span, strides)
    padded = padded_size(size, pads)
    if any(n < k for n, k in zip(padded, span, strict=True)):
        raise ValueError(
            f"the padded map has {padded} points, fewer than the filter's span of {span}; "
            "use a larger map, more padding or a smaller kernel"
        )
    grid = padded if fft_size is None else per_axis("fft_size", fft_size, axes, 1)
    if any(n < p for n, p in zip(grid, padded, strict=True)):
        raise ValueError(f"fft_size is {grid}, allowed is at least the padded map, {padded} points")
    if band is not None:
        kept = per_axis("band", band, axes, 1)
        Band(grid, kept)  # checks the range of each axis
    elif compression is not None:
        kept = band_from_compression(grid, compression).kept
    else:
        kept = full_band(grid).kept
    return ConvGeometry(size, pads, kernel, strides, dilations, groups, grid, kept)


@run_as_constant
def _cached_geometry(*arguments: Any) -> ConvGeometry:
    return _conv_geometry(*arguments)


def per_axis(name: str, value: int | Sequence[int], axes: int, least: int) -> tuple[int, ...]:
    """One whole number per axis, from one for all or a sequence.

    Raises:
        TypeError: It is not made of whole numbers.
        ValueError: The number of entries is wrong, or one is below `least`.
    """
    entries: list[Any] = list(value) if isinstance(value, (tuple, list)) else [value] * axes
    if any(isinstance(n, bool) or not isinstance(n, (int, torch.SymInt)) for n in entries):
        raise TypeError(f"{name} must be a whole number or a tuple of {axes}, got {value!r}")
    if len(entries) == 1:
        entries = entries * axes
    if len(entries) != axes:
        raise ValueError(f"{name} is {value!r}, allowed is one number or {axes} of them")
    if any(n < least for n in entries):
        raise ValueError(f"{name} is {value!r}, allowed is at least {least}")
    return tuple(int(n) for n in entries)


def _padding_pairs(
    padding: int | str | Sequence[int], span: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * len(span)
        if padding != "same":
            raise ValueError(
                f"padding is {padding!r}, allowed are 'same', 'valid' or zeros per axis"
            )
        if any(s != 1 for s in stride):
            raise ValueError(f"padding='same' needs stride 1, but stride is {stride}")
        return tuple(((k - 1) // 2, k - 1 - (k - 1) // 2) for k in span)
    return tuple((p, p) for p in per_axis("padding", padding, len(span), 0))
