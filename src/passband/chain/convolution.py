"""Convolutions as steps of the native engine: sums of shifted inputs."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from passband.chain.layouts import image_layout, is_tall, padding, plane_layout
from passband.chain.steps import (
    AVERAGE,
    CONVOLVE,
    DEPTHWISE,
    INFINITY,
    INTERLEAVE,
    Place,
    Step,
    Steps,
    UnsupportedError,
    numbers,
)

_MOST_OUTPUTS = 8


@dataclass(frozen=True)
class Before:
    """What becomes of the numbers that a convolution reads: scaled, shifted, kept within limits."""

    scale: Tensor
    shift: Tensor
    low: float = -INFINITY
    high: float = INFINITY


def convolution(
    steps: Steps, conv: nn.Conv2d, source: Place, to: Place, before: Before | None
) -> list[Step]:
    """The steps of a convolution to maps of that size, which give them.

    Raises:
        UnsupportedError: There are none for one of its options.
    """
    if conv.padding_mode != "zeros":
        raise UnsupportedError(f"Conv2d with padding_mode {conv.padding_mode}")
    if len(set(conv.stride)) != 1:
        raise UnsupportedError("Conv2d with unlike strides")
    if steps.lanes == 1:
        if (depthwise := _depthwise(steps, conv, source, to)) is not None:
            return depthwise
        layout = plane_layout(steps, conv, source, to)
    else:
        layout = image_layout(steps, conv, source)
    strides = layout.strides | _before(before) | {"groups": conv.groups}
    weight, rows = conv.weight, int(conv.kernel_size[0])
    if layout.tall:
        weight, rows = weight.transpose(2, 3), 1  # a shift for each column of taps
    shifts = layout.shifts(conv, rows)
    taps = weight[0].numel()
    return [products(steps, shifts, weight, conv.bias, layout.source, to, taps=taps, **strides)]


def _depthwise(steps: Steps, conv: nn.Conv2d, source: Place, to: Place) -> list[Step] | None:
    """The steps of a convolution of each channel by itself of one image, where it has own ones."""
    grows = tuple(
        2 * padding(conv) - int(conv.dilation[i]) * (int(conv.kernel_size[i]) - 1) for i in (0, 1)
    )
    if not conv.groups == conv.in_channels == conv.out_channels or grows != (0, 0):
        return None
    if conv.stride[0] == 2:
        return _every_second(steps, conv, source, to)
    registers, rest = divmod(to.rows * to.columns, steps.width)
    is_part = to.row == to.columns and to.columns in (4, 8) and to.columns < steps.width
    is_square = is_tall(conv) and (conv.kernel_size[1], conv.dilation[1]) == (3, 1)
    if rest or not is_part or not is_square:
        return None
    weights, bias = numbers(conv.weight.flatten(), 9 * to.channels), numbers(conv.bias, to.channels)
    return [steps.add(DEPTHWISE, source, to, weights=weights, bias=bias, rows=registers)]


def _every_second(steps: Steps, conv: nn.Conv2d, source: Place, to: Place) -> list[Step]:
    """Stride 2 as every second result of stride 1, which takes less time than shifted copies."""
    of_stride_1 = copy.copy(conv)
    of_stride_1.stride = (1, 1)
    every = steps.map(source.channels, source.rows, source.columns)
    written = convolution(steps, of_stride_1, source, every, None)
    steps.release(every)
    strides = {"source_row": 2 * every.row, "source_column": 2}
    one = np.zeros(1, dtype=np.int64)
    return [*written, steps.add(AVERAGE, every, to, taps=1, shifts=one, **strides)]


def _before(before: Before | None) -> dict[str, Any]:
    if before is None:
        return {}
    both = [numbers(value, len(value)) for value in (before.scale, before.shift)]
    limits = {"low_before": before.low, "high_before": before.high}
    return {"before": np.stack(both, 1), **limits}


def transposed_convolution(
    steps: Steps, conv: nn.ConvTranspose2d, source: Place, to: Place
) -> list[Step]:
    """The steps of a transposed convolution to maps of that size, which give them.

    Of stride s it is s * s convolutions, each with some of the taps, whose results lie between each
    other's. Many images are written there; of one image each result is a map of its own before, so
    that neighbours are computed together.

    Raises:
        UnsupportedError: There are none for one of its options.
    """
    stride = _stride(conv)
    if conv.groups > 1:
        raise UnsupportedError("ConvTranspose2d with groups")
    if transposed_border(conv) > 0 or -(-to.columns // stride) > source.row:
        source = steps.bordered(source)
    parts = to if steps.lanes > 1 else _parts(steps, source, to, stride)
    written = []
    for down in range(min(stride, to.rows)):
        for right in range(min(stride, to.columns)):
            taps_down = _transposed_taps(conv, 0, down)
            taps_right = _transposed_taps(conv, 1, right)
            weight = conv.weight.transpose(0, 1)
            weight = weight[:, :, [tap for tap, _ in taps_down]]
            weight = weight[..., [tap for tap, _ in taps_right]]
            shifts = [
                channel * source.plane + row * source.row + column * steps.lanes
                for channel in range(source.channels)
                for _, row in taps_down
                for _, column in taps_right
            ]
            if steps.lanes > 1:
                place = replace(to, start=to.start + down * to.row + right * steps.lanes)
                strides = {
                    "rows": -(-(to.rows - down) // stride),
                    "columns": -(-(to.columns - right) // stride),
                    "to_row": stride * to.row,
                    "to_column": stride * steps.lanes,
                }
            else:
                part = (down * stride + right) * to.channels
                place = replace(parts, start=parts.start + part * parts.plane, channels=to.channels)
                strides = steps.one_row(parts)
            written.append(products(steps, shifts, weight, conv.bias, source, place, **strides))
    if steps.lanes == 1:
        steps.add(INTERLEAVE, parts, to, size=stride)
    return written


def transposed_border(conv: nn.ConvTranspose2d) -> int:
    """How far beyond the edges of its input a transposed convolution reads."""
    stride = _stride(conv)
    beyond = (
        int(conv.dilation[i]) * (int(conv.kernel_size[i]) - 1)
        + int(conv.output_padding[i])
        - int(conv.padding[i])
        for i in (0, 1)
    )
    return max(0, *(reach // stride for reach in beyond))


def _transposed_taps(conv: nn.ConvTranspose2d, axis: int, phase: int) -> list[tuple[int, int]]:
    """The taps of every s-th output from a phase on, each with its shift in the input.

    Tap t of input i adds to the output ``s i + d t - p``.
    """
    stride, padding = int(conv.stride[axis]), int(conv.padding[axis])
    dilation = int(conv.dilation[axis])
    offsets = [phase + padding - dilation * tap for tap in range(int(conv.kernel_size[axis]))]
    return [(t, offset // stride) for t, offset in enumerate(offsets) if offset % stride == 0]


def _stride(conv: nn.ConvTranspose2d) -> int:
    if len({int(stride) for stride in conv.stride}) != 1:
        raise UnsupportedError("ConvTranspose2d with unlike strides")
    return int(conv.stride[0])


def _parts(steps: Steps, source: Place, to: Place, stride: int) -> Place:
    """Every s-th row and column of the result, in rows as long as those of the input."""
    rows, columns = -(-to.rows // stride), -(-to.columns // stride)
    if columns > source.row:
        raise UnsupportedError("ConvTranspose2d of one image with so much padding of its output")
    plane = rows * source.row + steps.width
    channels = stride * stride * to.channels
    parts = Place(steps.size, channels, rows, columns, plane, source.row, channels)
    steps.size += channels * plane
    return parts


def products(
    steps: Steps,
    shifts: list[int],
    weight: Tensor,
    bias: Tensor | None,
    source: Place,
    to: Place,
    **more: Any,
) -> Step:
    """Sums of shifted inputs: a convolution, or a linear layer of many images."""
    columns = more.get("columns", to.columns)
    groups = more.get("groups", 1)
    outputs = to.channels // groups
    if more.get("tall"):
        tiles = _shared_out(outputs, steps.most_tall)
    else:
        tiles = _tiles(outputs, columns, steps.most_sums)
    flat = weight.detach().flatten(1).float().numpy()
    packed, first = [], 0
    for tile in tiles * groups:
        packed.append(flat[first : first + tile].T.ravel())
        first += tile
    return steps.add(
        CONVOLVE,
        source,
        to,
        shifts=np.array(shifts, dtype=np.int64),
        weights=np.concatenate(packed).astype(np.float32),
        bias=numbers(bias, to.channels),
        tiles=np.array(tiles, dtype=np.int64),
        **{"taps": len(shifts), **more},
    )


def _tiles(outputs: int, columns: int, most_sums: int) -> list[int]:
    """How many outputs are computed together: like numbers that fill the registers."""
    positions = min(columns, 4 if outputs > 3 else 8)
    most = min(_MOST_OUTPUTS, max(1, most_sums // positions), outputs)
    return _shared_out(outputs, most)


def _shared_out(outputs: int, most: int) -> list[int]:
    """As few like numbers as there can be."""
    count = -(-outputs // most)
    return [outputs // count + (tile < outputs % count) for tile in range(count)]
