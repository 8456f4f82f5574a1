"""Pooling that keeps little: a byte per output for the maximum, nothing for the average."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from passband.ops.band_limited_conv.layout import memory_format
from passband.ops.conv_block import kernels

_PART_BYTES = 4 << 20  # of maps at a time
_MOST_POINTS = 256  # of a window, whose positions fit a byte


@dataclass(frozen=True)
class Pool:
    """A pooling of two axes; a series is a map of one row.

    Args:
        kind: "max" or "average".
        kernel: Points of the window per axis.
        stride: Distance of the windows.
        padding: Points added on both sides.
        dilation: Distance of the points of a window; 1 for the average.
        ceil_mode: Whether windows may begin inside the map and end outside.
        count_include_pad: Whether the average counts what was added.
        divisor: What the average divides by; None: the points of the window.
    """

    kind: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None

    @property
    def fits(self) -> bool:
        """Whether a position in the window fits a byte."""
        return self.kind == "average" or self.kernel[0] * self.kernel[1] <= _MOST_POINTS

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pooled maps, and for the maximum where in its window each stands, in a byte."""
        rows = _as_maps(maps)
        if self.kind == "average":
            averages = F.avg_pool2d(rows, *self._of_average)
            return averages.squeeze(2) if maps.dim() == 3 else averages, None
        if self.is_by_kernels(rows):
            maxima, places = kernels.maxima(rows, self.kernel)
            return (maxima.squeeze(2) if maps.dim() == 3 else maxima), places
        # a part at a time, because 64-bit indices need much memory
        images = max(_PART_BYTES * len(rows) // max(rows.nbytes, 1), 1)
        pooled = place = None
        for start in range(0, max(len(rows), 1), images):
            part, own = self._maxima(rows[start : start + images])
            if pooled is None or place is None:
                shape, order = (len(rows), *part.shape[1:]), memory_format(part)
                pooled = torch.empty(
                    shape, dtype=part.dtype, device=part.device, memory_format=order
                )
                place = torch.empty_like(pooled, dtype=torch.uint8)
            pooled[start : start + images] = part
            place[start : start + images] = own
        assert pooled is not None and place is not None
        return (pooled.squeeze(2) if maps.dim() == 3 else pooled), place

    def _maxima(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        pooled, indices = torch.ops.aten.max_pool2d_with_indices(rows, *self._arguments)
        top, left = self._corners(pooled.shape[-2], pooled.shape[-1], rows.device)
        row = indices.div(rows.shape[-1], rounding_mode="floor")
        column = indices.remainder_(rows.shape[-1])
        row = row.sub_(top).div_(self.dilation[0], rounding_mode="floor")
        column = column.sub_(left).div_(self.dilation[1], rounding_mode="floor")
        return pooled, row.mul_(self.kernel[1]).add_(column).to(torch.uint8)

    def indices(self, place: Tensor, width: int) -> Tensor:
        """Where the maxima stand in the maps, rows one after the other: int64."""
        place = place.long()
        top, left = self._corners(place.shape[-2], place.shape[-1], place.device)
        column = place.remainder(self.kernel[1]).mul_(self.dilation[1]).add_(left)
        row = place.div_(self.kernel[1], rounding_mode="floor").mul_(self.dilation[0]).add_(top)
        return row.mul_(width).add_(column)

    def backward_max(self, grad: Tensor, place: Tensor, to: Tensor) -> None:
        """Write the gradient of the maps; `place` is where in its window each maximum stands."""
        rows, grad = _as_maps(to), _as_maps(grad)
        if self.is_by_kernels(rows) and place.is_contiguous():
            kernels.maxima_gradient(grad.to(rows.dtype).contiguous(), place, self.kernel, rows)
            return
        indices = self.indices(place, rows.shape[-1])
        torch.ops.aten.max_pool2d_with_indices_backward.grad_input(
            grad, rows, *self._arguments, _as_maps(indices), grad_input=rows
        )

    def backward_average(self, grad: Tensor, to: Tensor) -> None:
        """Write the gradient of the maps."""
        rows = _as_maps(to)
        torch.ops.aten.avg_pool2d_backward.grad_input(
            _as_maps(grad), rows, *self._of_average, grad_input=rows
        )

    def is_by_kernels(self, maps: Tensor) -> bool:
        """Whether these are maxima of windows side by side, in maps that the kernels take.

        Maps whose channels are innermost are left to torch's operator.
        """
        rows = _as_maps(maps)
        return (
            self.kind == "max"
            and self.fits
            and self.kernel == self.stride
            and (self.padding, self.dilation) == ((0, 0), (1, 1))
            and not self.ceil_mode
            and self.kernel[1] <= kernels.MOST_COLUMNS
            and all(n >= k for n, k in zip(rows.shape[2:], self.kernel, strict=True))
            and rows.is_contiguous()
            and kernels.apply(rows)
        )

    @property
    def _arguments(self) -> tuple[Any, ...]:
        return (self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)

    @property
    def _of_average(self) -> tuple[Any, ...]:
        return (
            self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor,
        )  # fmt: skip

    def _corners(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where the windows begin."""
        top = torch.arange(height, device=device) * self.stride[0] - self.padding[0]
        left = torch.arange(width, device=device) * self.stride[1] - self.padding[1]
        return top.view(-1, 1), left


def gather(maps: Tensor, indices: Tensor) -> Tensor:
    """The values of the maps where the maxima stand, in the shape of the indices."""
    return maps.flatten(2).gather(2, indices.flatten(2)).view(indices.shape)


def _as_maps(maps: Tensor) -> Tensor:
    return maps.unsqueeze(2) if maps.dim() == 3 else maps
