"""Batch norm, activation and maxima of a block by the compiled kernels: float32 maps on a CPU.

What torch does in a pass for each operation takes one pass here. Where the kernels do not apply, or
would not give torch's bits, torch's operators run.
"""

import ctypes
import math
from functools import cache

import torch
from torch import Tensor

from passband.ops.band_limited_conv.layout import is_channels_last
from passband.ops.band_limited_conv.native.library import Norm, load_library
from passband.ops.band_limited_conv.native.memory import is_plain
from passband.ops.conv_block.activation import Activation

MOST_COLUMNS = 8
"""Of a window whose maxima the kernels take: of pool.c."""

_TASKS = 32


def apply(*maps: Tensor) -> bool:
    """Whether the kernels compute with these maps, whose numbers lie one after the other."""
    return (
        load_library() is not None
        and all(is_plain(m) and m.dtype == torch.float32 and m.numel() > 0 for m in maps)
        and all(m.shape == maps[0].shape for m in maps)
        and (all(m.is_contiguous() for m in maps) or all(is_channels_last(m) for m in maps))
    )


def activate_(maps: Tensor, added: Tensor | None, activation: Activation) -> Tensor:
    """Add to the maps and activate them, in place; the bits of the derivative, as `pack_bits`.

    Args:
        maps: Maps (B, ..).
        added: Maps that are added first, or None.
        activation: One that has kinks only.
    """
    images, numbers = len(maps), math.prod(maps.shape[1:])
    bits = torch.empty(images, -(-numbers // 8), dtype=torch.uint8)
    _, high, slope = activation.kinks
    _library().passband_activate(
        maps.data_ptr(), None if added is None else added.data_ptr(), bits.data_ptr(), images,
        numbers, high, slope, torch.get_num_threads(),
    )  # fmt: skip
    return bits


def mask(grad: Tensor, bits: Tensor, activation: Activation, to: Tensor) -> None:
    """Write the gradient of what was activated, from that of the result and the bits."""
    images, numbers = len(grad), math.prod(grad.shape[1:])
    _library().passband_mask(
        grad.data_ptr(), bits.data_ptr(), to.data_ptr(), images, numbers, activation.kinks[2],
        torch.get_num_threads(),
    )  # fmt: skip


def maxima(maps: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Maxima of windows side by side, and where in its window each stands, in a byte.

    Args:
        maps: Maps (B, C, n1, n2), one after the other.
        window: Points per axis, of at most 256 and `MOST_COLUMNS` in a row.
    """
    shape = (*maps.shape[:2], *(n // k for n, k in zip(maps.shape[2:], window, strict=True)))
    pooled, place = maps.new_empty(shape), maps.new_empty(shape, dtype=torch.uint8)
    _library().passband_maxima(
        maps.data_ptr(), *_planes(maps), *window, pooled.data_ptr(), place.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return pooled, place


def maxima_gradient(grad: Tensor, place: Tensor, window: tuple[int, int], to: Tensor) -> None:
    """Write the gradient of the maps from that of their maxima; all lie one after the other."""
    _library().passband_maxima_gradient(
        grad.data_ptr(), place.data_ptr(), *_planes(to), *window, to.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip


class NormKernels:
    """A batch norm and the activation after it, for their backward pass.

    Args:
        mean: Mean of each channel.
        scale: Slope of the batch norm in each channel.
        shift: What is added after that; only looked at with an activation.
        activation: One that has kinks only, whose argument is made again here; or None.
    """

    def __init__(
        self, mean: Tensor, scale: Tensor, shift: Tensor | None, activation: Activation | None
    ) -> None:
        self._tensors = mean, scale, shift
        kinks = (0.0, 0.0, 0.0) if activation is None else activation.kinks
        self._norm = Norm(
            mean.data_ptr(),
            scale.data_ptr(),
            None if activation is None or shift is None else shift.data_ptr(),
            *kinks,
        )

    def sums(self, maps: Tensor, grad: Tensor) -> Tensor:
        """Sums over the batch (2, C), in float64: grad (maps - mean), and grad."""
        outer, channels, inner, rows = _rows(maps)
        sums = torch.empty(-(-outer // rows), 2, channels, dtype=torch.float64)
        _library().passband_norm_sums(
            maps.data_ptr(), grad.data_ptr(), outer, channels, inner, rows, self._norm,
            sums.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return sums.sum(0)

    def backward(
        self, maps: Tensor, grad: Tensor, to: Tensor, slope: Tensor | None, offset: Tensor | None
    ) -> None:
        """Write scale grad + slope (maps - mean) + offset, perhaps in the place of either."""
        outer, channels, inner, rows = _rows(maps)
        _library().passband_norm_backward(
            maps.data_ptr(), grad.data_ptr(), to.data_ptr(), outer, channels, inner, rows,
            self._norm, None if slope is None else slope.data_ptr(),
            None if offset is None else offset.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip


@cache
def have_torchs_bits(channels_last: bool) -> bool:
    """Whether scale * y + shift is rounded here as torch's batch norm rounds it.

    Both were compiled for the same processor, but by different compilers. Of these numbers the
    sum is zero where it is rounded twice, and the error of the product where it is rounded once.
    """
    form = torch.channels_last if channels_last else torch.contiguous_format
    maps = torch.empty(2, 70, 3, 5, memory_format=form)
    maps.copy_(torch.sin(torch.arange(1.0, 71.0)).view(1, -1, 1, 1))
    mean, scale = torch.zeros(70), torch.cos(torch.arange(1.0, 71.0))
    shift = -(scale * maps[0, :, 0, 0])
    v, _, _ = torch.native_batch_norm(maps, scale, shift, mean, torch.ones(70), False, 0.0, 0.0)
    ones, found = torch.ones_like(maps), torch.empty_like(maps)
    relu = NormKernels(mean, scale, shift, Activation("relu"))
    relu.backward(maps, ones, found, None, None)
    return torch.equal(found, scale.view(1, -1, 1, 1) * (v > 0))


def _rows(maps: Tensor) -> tuple[int, int, int, int]:
    """Maps as (outer, channels, inner) numbers in memory, and the outer of one task."""
    batch, channels, points = maps.shape[0], maps.shape[1], math.prod(maps.shape[2:])
    outer, inner = (batch * points, 1) if is_channels_last(maps) else (batch, points)
    return outer, channels, inner, max(-(-outer // _TASKS), 1)


def _planes(maps: Tensor) -> tuple[int, int, int]:
    """How many maps, and their points."""
    return maps.shape[0] * maps.shape[1], maps.shape[2], maps.shape[3]


def _library() -> ctypes.CDLL:
    library = load_library()
    assert library is not None, "apply() was not asked"
    return library
