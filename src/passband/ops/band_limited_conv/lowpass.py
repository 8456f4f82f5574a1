"""Band-limited convolution as an ordinary one on the low-passed map.

The band is a projection P = Q Q^T per axis, so conv(P x, w) without padding is the band-limited
convolution: exactly, for every stride, dilation and number of groups, and the filter needs no
transform. What is kept for the backward pass is the spectrum z = Q^T x Q, laid out as the maps are:
(B, C, m1, ..). Axes at full band are left alone: there the projection is the identity.

Transforms are computed in float32 or float64, the convolution in `dtype`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.layout import is_channels_last, transform_dtype
from passband.spectrum.dft import fourier_basis, transform

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class LowPass:
    """The algorithm, whoever computes the transforms.

    Both take (tensor, geometry, padded) and leave axes at full band as they are: maps to spectra
    and back, at the points of the padded or the unpadded map.
    """

    to_spectra: Callable[[Tensor, ConvGeometry, bool], Tensor]
    to_maps: Callable[[Tensor, ConvGeometry, bool], Tensor]

    @staticmethod
    def spectrum_shape(geometry: ConvGeometry, batch: int, channels: int) -> tuple[int, ...]:
        """Shape of the spectrum that `analyze` returns."""
        sizes = (
            n if geometry.band.is_full_axis(axis) else m
            for axis, (n, m) in enumerate(zip(geometry.size, geometry.band.real_sizes, strict=True))
        )
        return (batch, channels, *sizes)

    def analyze(self, maps: Tensor, geometry: ConvGeometry) -> Tensor:
        """Truncated spectrum z = Q^T x of maps (B, C, n1, ..)."""
        return self.to_spectra(maps, geometry, False)

    def analyze_adjoint(self, spectrum: Tensor, geometry: ConvGeometry) -> Tensor:
        """Adjoint of `analyze`: maps x = Q z at the points of the unpadded map."""
        return self.to_maps(spectrum, geometry, False)

    def forward(
        self,
        spectrum: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: ConvGeometry,
        dtype: torch.dtype,
    ) -> Tensor:
        """Output maps (B, O, m1, ..) from the spectrum of the input."""
        maps, padding = self._lowpassed(spectrum, geometry, dtype)
        return _CONVOLUTIONS[geometry.axes](
            maps,
            weight.to(dtype),
            None if bias is None else bias.to(dtype),
            geometry.stride,
            padding,
            geometry.dilation,
            geometry.groups,
        )

    def backward(
        self,
        grad: Tensor,
        spectrum: Tensor,
        weight: Tensor,
        geometry: ConvGeometry,
        dtype: torch.dtype,
        needs_spectrum: bool,
        needs_weight: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the spectrum of the input, and of the filters, from that of the output."""
        maps, padding = self._lowpassed(spectrum, geometry, dtype)
        grad_maps, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad.to(dtype),
            maps,
            weight.to(dtype),
            None,
            geometry.stride,
            padding,
            geometry.dilation,
            False,
            [0] * geometry.axes,
            geometry.groups,
            [needs_spectrum, needs_weight, False],
        )
        grad_spectrum = None
        if needs_spectrum:
            for axis, (before, size) in enumerate(_cropped_axes(geometry), 2):
                grad_maps = grad_maps.narrow(axis, before, size)
            grad_spectrum = self.to_spectra(grad_maps, geometry, True)
        return grad_spectrum, grad_weight if needs_weight else None

    def _lowpassed(
        self, spectrum: Tensor, geometry: ConvGeometry, dtype: torch.dtype
    ) -> tuple[Tensor, tuple[int, ...]]:
        """The low-passed map on the points the filter meets, and the zeros the convolution pads.

        Zeros stand around a full axis only, elsewhere the low-pass has filled the padding. The
        convolution pads them itself where they are as many on both sides.
        """
        maps = self.to_maps(spectrum, geometry, True).to(dtype)
        padding = _full_axis_padding(geometry)
        if any(before != after for before, after in padding):
            maps = F.pad(maps, [p for pair in reversed(padding) for p in pair])
            return maps, (0,) * geometry.axes
        return maps, tuple(before for before, _ in padding)


def convolve_full_band(
    maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry
) -> Tensor:
    """The convolution whose band keeps everything, which is torch's own, gradients included."""
    padding = tuple(before for before, _ in geometry.padding)
    if any(before != after for before, after in geometry.padding):
        maps = F.pad(maps, [p for pair in reversed(geometry.padding) for p in pair])
        padding = (0,) * len(geometry.size)
    convolution = _CONVOLUTIONS[len(geometry.size)]
    output: Tensor = convolution(
        maps, weight, bias, geometry.stride, padding, geometry.dilation, geometry.groups
    )
    return output


def _full_axis_padding(geometry: ConvGeometry) -> list[tuple[int, int]]:
    return [
        pair if geometry.band.is_full_axis(axis) else (0, 0)
        for axis, pair in enumerate(geometry.padding)
    ]


def _cropped_axes(geometry: ConvGeometry) -> list[tuple[int, int]]:
    """Per axis, where the map without explicitly padded zeros starts, and its length."""
    padding = _full_axis_padding(geometry)
    explicit = any(before != after for before, after in padding)
    return [
        (pair[0] if explicit else 0, n if geometry.band.is_full_axis(axis) else padded)
        for axis, (pair, n, padded) in enumerate(
            zip(padding, geometry.size, geometry.padded_size, strict=True)
        )
    ]


def _to_spectra(maps: Tensor, geometry: ConvGeometry, padded: bool) -> Tensor:
    maps = maps.to(transform_dtype(maps.dtype))
    return _transform(maps, [q if q is None else q.T for q in _bases(maps, geometry, padded)])


def _to_maps(spectrum: Tensor, geometry: ConvGeometry, padded: bool) -> Tensor:
    spectrum = spectrum.to(transform_dtype(spectrum.dtype))
    return _transform(spectrum, _bases(spectrum, geometry, padded))


def _bases(like: Tensor, geometry: ConvGeometry, padded: bool) -> list[Tensor | None]:
    """Rows of Q per axis that meet the padded or the unpadded map; None where the axis is full."""
    band = geometry.band
    bases: list[Tensor | None] = []
    for axis, (before, _) in enumerate(geometry.padding):
        if band.is_full_axis(axis):
            bases.append(None)
            continue
        q = fourier_basis(
            band.sizes[axis], band.kept[axis], transform_dtype(like.dtype), like.device
        )
        first = 0 if padded else before
        bases.append(q[first : first + (geometry.padded_size if padded else geometry.size)[axis]])
    return bases


def _transform(maps: Tensor, matrices: list[Tensor | None]) -> Tensor:
    """Transform the spatial axes of (B, C, n1, ..) in the memory order the maps are in."""
    if is_channels_last(maps):
        return transform(maps.movedim(1, -1), matrices, 1).movedim(-1, 1)
    return transform(maps, matrices, 2)


BY_TORCH = LowPass(_to_spectra, _to_maps)
