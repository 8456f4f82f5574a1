"""A convolution inside a block: what it keeps of its input, its output from that, its gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.lowpass import convolve_full_band
from passband.ops.band_limited_conv.native import convolution as native
from passband.ops.band_limited_conv.op import (
    IMPLEMENTATIONS,
    band_limited_conv,
    band_limited_conv_backward,
    geometry_arguments,
)
from passband.ops.conv_block.storage import round_spectrum, widen_spectrum

Kept = tuple[Tensor, ...]


@dataclass(frozen=True)
class PlainConv:
    """torch's own convolution. It keeps its input, of which a strided 1x1 filter sees a part only.

    Args:
        geometry: Static shapes, at full band.
        dtype: Type of the product and of the output.
    """

    geometry: ConvGeometry
    dtype: torch.dtype

    least_images = 1

    @cached_property
    def samples(self) -> bool:
        """Whether the filter has one point and a stride, so that some points are never seen.

        The output made again from the others may then have other last bits.
        """
        g = self.geometry
        return (
            all(k == 1 for k in g.kernel)
            and any(s > 1 for s in g.stride)
            and not any(p for pair in g.padding for p in pair)
        )

    @cached_property
    def _points(self) -> tuple[slice, ...]:
        """The points that the stride meets."""
        every = slice(None)
        return (every, every, *(slice(None, None, s) for s in self.geometry.stride))

    @cached_property
    def _convolved(self) -> ConvGeometry:
        """The geometry of the convolution of what is kept."""
        g = self.geometry
        if not self.samples:
            return g
        ones = (1,) * g.axes
        return ConvGeometry(
            g.output_size, g.padding, g.kernel, ones, ones, g.groups, g.output_size, g.kept
        )

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Kept]:
        """Output, and what is kept of the input."""
        return self._convolve(x, weight, bias, self.geometry), self.keep(x)

    def keep(self, x: Tensor) -> Kept:
        """What is kept of the input."""
        kept = x.to(self.dtype)
        if self.samples:
            kept = kept[self._points].contiguous()
        return (kept,)

    def output(self, kept: Kept, weight: Tensor, bias: Tensor | None, to: Tensor) -> None:
        """Write the output again."""
        to.copy_(self._convolve(kept[0], weight, bias, self._convolved))

    def _convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry
    ) -> Tensor:
        bias = None if bias is None else bias.to(self.dtype)
        return convolve_full_band(x.to(self.dtype), weight.to(self.dtype), bias, geometry)

    def narrow(self, kept: Kept, start: int, count: int) -> Kept:
        """What is kept of some images."""
        return (kept[0].narrow(0, start, count),)

    def backward(
        self, grad: Tensor, kept: Kept, weight: Tensor, to: Tensor | None, needs_weight: bool
    ) -> Tensor | None:
        """Write the gradient of the input, where it is wanted; the gradient of the filters.

        What is written may lie where the gradient does, image by image.
        """
        g, maps = self._convolved, kept[0]
        padding = tuple(before for before, _ in g.padding)
        uneven = any(before != after for before, after in g.padding)
        if uneven:
            maps = F.pad(maps, [p for pair in reversed(g.padding) for p in pair])
            padding = (0,) * g.axes
        grad_input, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad.to(self.dtype), maps, weight.to(self.dtype), None, g.stride, padding, g.dilation,
            False, [0] * g.axes, g.groups, [to is not None, needs_weight, False],
        )  # fmt: skip
        if to is not None and self.samples:
            to.zero_()
            to[self._points] = grad_input
        elif to is not None:
            if uneven:
                for axis, ((before, _), size) in enumerate(zip(g.padding, g.size, strict=True), 2):
                    grad_input = grad_input.narrow(axis, before, size)
            to.copy_(grad_input)
        return grad_weight if needs_weight else None


@dataclass(frozen=True)
class SpectralConv:
    """A band-limited convolution. It keeps the truncated spectrum, or the map where that is less.

    In types of 16 bits, and where spectra are to be kept in fewer bits, the spectrum is rounded
    before the output is made of it, so that the output made again in the backward pass is the same.

    Args:
        geometry: Static shapes and the band.
        algorithm: "lowpass", "matmul" or "triton".
        dtype: Type of the product and of the output.
        spectrum_dtype: Type of what is kept; None: as it is computed.
    """

    geometry: ConvGeometry
    algorithm: str
    dtype: torch.dtype
    spectrum_dtype: str | None = None

    samples = False

    @property
    def least_images(self) -> int:
        """Fewest images at a time that make the transform of the filters worth it."""
        return _LEAST_IMAGES

    @cached_property
    def _arguments(self) -> tuple[Any, ...]:
        return (*geometry_arguments(self.geometry), self.algorithm, self.dtype)

    @cached_property
    def _rounds(self) -> bool:
        return self.spectrum_dtype is not None or self.dtype.itemsize < 4

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Kept]:
        """Output, and what is kept of the input."""
        if self.geometry.keeps_map or not self._rounds:
            output, spectrum = band_limited_conv(x, weight, bias, *self._arguments, False)
            return output, (x if self.geometry.keeps_map else spectrum,)
        kept = self.keep(x)
        return self._convolve(kept, weight, bias), kept

    def keep(self, x: Tensor) -> Kept:
        """What is kept of the input."""
        if self.geometry.keeps_map:
            return (x,)
        spectrum = IMPLEMENTATIONS[self.algorithm].analyze(x, self.geometry)
        return round_spectrum(spectrum.to(self.dtype).contiguous(), self.spectrum_dtype)

    def output(self, kept: Kept, weight: Tensor, bias: Tensor | None, to: Tensor) -> None:
        """Write the output again: the second half of the convolution."""
        given = self._given(kept)
        if not self._by_kernels(to, given, weight, bias):
            to.copy_(self._convolve(kept, weight, bias))
            return
        from_spectrum = not self.geometry.keeps_map
        native.forward(given, weight, bias, self.geometry, self.dtype, from_spectrum, False, to)

    def _convolve(self, kept: Kept, weight: Tensor, bias: Tensor | None) -> Tensor:
        from_spectrum = not self.geometry.keeps_map
        output: Tensor
        output, _ = band_limited_conv(
            self._given(kept), weight, bias, *self._arguments, from_spectrum
        )
        return output

    def narrow(self, kept: Kept, start: int, count: int) -> Kept:
        """What is kept of some images."""
        frequencies_first = self.algorithm != "lowpass" and not self.geometry.keeps_map
        spectrum, *scale = kept
        return (spectrum.narrow(1 if frequencies_first else 0, start, count), *scale)

    def backward(
        self, grad: Tensor, kept: Kept, weight: Tensor, to: Tensor | None, needs_weight: bool
    ) -> Tensor | None:
        """Write the gradient of the input, where it is wanted; the gradient of the filters.

        What is written may lie where the gradient does, image by image.
        """
        given, needs_input = self._given(kept), to is not None
        if self._by_kernels(grad if to is None else to, grad, given, weight):
            _, grad_weight = native.backward(
                grad, given, weight, self.geometry, self.geometry.keeps_map, False, needs_input,
                needs_weight, to,
            )  # fmt: skip
            return grad_weight
        grad_input, of_weight = band_limited_conv_backward(
            grad, given, weight, *self._arguments, False, needs_input, needs_weight
        )
        if to is not None:
            to.copy_(grad_input)
        return of_weight if needs_weight else None

    def _by_kernels(self, to: Tensor, *tensors: Tensor | None) -> bool:
        """Whether the kernels compute this call, and write it where it is to be."""
        return (
            self.algorithm == "matmul"
            and to.dtype == self.dtype == torch.float32
            and native.applies(self.geometry, self.dtype, to, *tensors)
        )

    def _given(self, kept: Kept) -> Tensor:
        return kept[0] if self.geometry.keeps_map else widen_spectrum(kept, self.dtype)


Conv = PlainConv | SpectralConv


def images_at_a_time(bytes_per_image: int, batch: int, least: int = 1) -> int:
    """Images of the batch that a backward pass goes through at a time.

    As many as need `_CHUNK_BYTES`, but at least so many.
    """
    fitting = max(least, _CHUNK_BYTES // max(bytes_per_image, 1))
    parts = -(-batch // fitting)
    return max(-(-batch // max(parts, 1)), 1)


_CHUNK_BYTES = 4 << 20
_LEAST_IMAGES = 16


def chunks(batch: int, size: int) -> Sequence[tuple[int, int]]:
    """First image and number of images of each part of the batch."""
    return [(start, min(size, batch - start)) for start in range(0, batch, size)]
