"""Convolutions as steps of the native engine: sums of shifted inputs."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from passband.chain.steps import (
    AVERAGE,
    CONVOLVE,
    DEPTHWISE,
    INFINITY,
    INTERLEAVE,
    SHIFT,
    Place,
    Step,
    Steps,
    UnsupportedError,
    numbers,
    round_up,
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
    if conv.padding_mode != "zeros" or len({*conv.stride, *conv.stride}) != 1:
        raise UnsupportedError(f"Conv2d with padding_mode {conv.padding_mode}")
    if steps.lanes == 1:
        if (depthwise := _depthwise(steps, conv, source, to)) is not None:
            return depthwise
        layout = _plane_layout(steps, conv, source, to)
    else:
        layout = _image_layout(steps, conv, source)
    strides = layout.strides | _before(before) | {"groups": conv.groups}
    weight, rows = conv.weight, int(conv.kernel_size[0])
    if layout.tall:
        weight, rows = weight.transpose(2, 3), 1  # a shift for each column of taps
    shifts = layout.shifts(conv, rows)
    taps = weight[0].numel()
    return [products(steps, shifts, weight, conv.bias, layout.source, to, taps=taps, **strides)]


def _depthwise(steps: Steps, conv: nn.Conv2d, source: Place, to: Place) -> list[Step] | None:
    """The steps of a convolution of each channel by itself of one image, where it has own ones.

    Of stride 2 a fourth of the results of stride 1 is kept: they take less time than shifts.
    """
    if not conv.groups == conv.in_channels == conv.out_channels or _reach(conv) != (0, 0):
        return None
    if conv.stride[0] == 2:
        every = steps.map(source.channels, source.rows, source.columns)
        unstrided = copy.copy(conv)
        unstrided.stride = (1, 1)
        written = convolution(steps, unstrided, source, every, None)
        steps.release(every)
        one = np.zeros(1, dtype=np.int64)
        strides = {"source_row": 2 * every.row, "source_column": 2}
        return [*written, steps.add(AVERAGE, every, to, taps=1, shifts=one, **strides)]
    registers, rest = divmod(to.rows * to.columns, steps.width)
    is_part = to.row == to.columns and to.columns in (4, 8) and to.columns < steps.width
    if not (_is_tall(conv) and conv.kernel_size[1] == 3 and conv.dilation[1] == 1):
        return None
    if rest or not is_part:
        return None
    weights, bias = numbers(conv.weight.flatten(), 9 * to.channels), numbers(conv.bias, to.channels)
    return [steps.add(DEPTHWISE, source, to, weights=weights, bias=bias, rows=registers)]


def _reach(conv: nn.Conv2d) -> tuple[int, ...]:
    """How much larger a result of stride 1 is than the input, in rows and columns."""
    return tuple(
        2 * padding(conv) - int(conv.dilation[i]) * (int(conv.kernel_size[i]) - 1) for i in (0, 1)
    )


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
    for down in range(stride):
        for right in range(stride):
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


@dataclass(frozen=True)
class _Layout:
    """How a convolution goes through its input."""

    source: Place
    shift: Callable[[int, int, int], int]
    strides: dict[str, Any]

    @property
    def tall(self) -> bool:
        """Whether several rows are computed at once."""
        return bool(self.strides.get("tall"))

    def shifts(self, conv: nn.Conv2d, rows: int) -> list[int]:
        """Shifts of the first group's taps: input channel, so many rows, column of the kernel."""
        columns = conv.kernel_size[1]
        return [
            self.shift(channel, row, column)
            for channel in range(conv.in_channels // conv.groups)
            for row in range(rows)
            for column in range(int(columns))
        ]


def _image_layout(steps: Steps, conv: nn.Conv2d, source: Place) -> _Layout:
    stride = int(conv.stride[0])
    strides = {"source_row": stride * source.row, "source_column": stride * steps.lanes}
    if _is_tall(conv) and conv.out_channels // conv.groups <= steps.most_tall:
        strides["tall"] = 1
    return _Layout(source, _in_place(steps, conv, source), strides)


def _plane_layout(steps: Steps, conv: nn.Conv2d, source: Place, to: Place) -> _Layout:
    strides = steps.one_row(to)
    if to.row > to.columns:
        strides["inside"] = steps.inside(to)
    is_same = (source.rows, source.columns, source.row) == (to.rows, to.columns, to.row)
    is_point = tuple(conv.kernel_size) == (1, 1) and padding(conv) == 0
    if conv.stride[0] > 1 or not is_same or (to.row == to.columns and not is_point):
        return _shifted_layout(steps, conv, source, to, strides)
    if _is_tall(conv) and to.columns % steps.width == 0:  # a row is whole registers
        strides = {"columns": to.columns // steps.width, "source_column": steps.width}
        strides |= {"to_column": steps.width, "tall": 1}
    return _Layout(source, _in_place(steps, conv, source), strides)


def _in_place(steps: Steps, conv: nn.Conv2d, source: Place) -> Callable[[int, int, int], int]:
    """Shifts in bordered maps, or those of single points."""
    before, (down, right) = padding(conv), conv.dilation

    def shift(channel: int, row: int, column: int) -> int:
        rows, columns = row * int(down) - before, column * int(right) - before
        return channel * source.plane + rows * source.row + columns * steps.lanes

    return shift


def _shifted_layout(
    steps: Steps, conv: nn.Conv2d, source: Place, to: Place, strides: dict[str, Any]
) -> _Layout:
    """Copies of the maps of one image, one for each column of the kernel, as the engine's SHIFT.

    Their rows are as long as those of the result. Of stride 2 there are two of each, of the even
    and of the odd rows. Above and below are zeros as far as the kernel reads there.
    """
    stride, before = int(conv.stride[0]), padding(conv)
    if stride > 2:
        raise UnsupportedError(f"Conv2d of stride {stride} of one image")
    down, right = (int(n) for n in conv.dilation)
    # Row i of the kernel reads, for each row of the result, a row further on of the copies of a phase.
    rows = [divmod(i * down - before, stride) for i in range(int(conv.kernel_size[0]))]
    columns = [i * right - before for i in range(int(conv.kernel_size[1]))]
    phases = sorted({phase for _, phase in rows})
    above, below = max(0, -rows[0][0]), max(0, rows[-1][0])
    plane = round_up((above + to.rows + below) * to.row + steps.width, steps.width)
    each = len(phases) * len(columns)
    key = (source.rows, source.columns, to.rows, to.row, stride, *rows, *columns)
    copies, channels = steps.shifted.get(key), each * source.channels
    if copies is None or copies.channels < channels:
        start = round_up(steps.size + above * to.row, steps.width)
        copies = Place(start, channels, to.rows, to.columns, plane, to.row, channels)
        steps.size = start + channels * plane
        steps.shifted[key] = copies
    copies = replace(copies, channels=channels)
    flat = stride == 1 and source.row == to.row
    for number, phase in enumerate(phases):
        count = min(to.rows + below, -(-(source.rows - phase) // stride))
        place = replace(
            copies,
            start=copies.start + number * len(columns) * plane,
            plane=each * plane,
        )
        there = np.arange(to.columns) * stride + np.array(columns)[:, None]
        inside = (there >= 0) & (there < source.columns)
        if flat:
            inside = np.tile(np.pad(inside, ((0, 0), (0, to.row - to.columns))), count)
        length = round_up(inside.shape[1], steps.width)
        inside = np.pad(inside, ((0, 0), (0, length - inside.shape[1])))
        steps.add(
            SHIFT,
            replace(source, start=source.start + phase * source.row),
            place,
            rows=1 if flat else count,
            columns=length // steps.width,
            source_row=stride * source.row,
            source_column=stride,
            other_plane=plane,
            taps=len(columns),
            shifts=np.array(columns, dtype=np.int64),
            inside=-inside.astype(np.int32),
        )

    def shift(channel: int, row: int, column: int) -> int:
        further, phase = rows[row]
        copy = (channel * len(phases) + phases.index(phase)) * len(columns) + column
        return copy * plane + further * to.row

    return _Layout(copies, shift, strides)


def _is_tall(conv: nn.Conv2d) -> bool:
    """Whether the engine has a kernel for several rows of it."""
    return (conv.kernel_size[0], conv.stride[0], conv.dilation[0]) == (3, 1, 1)


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


def padding(conv: nn.Conv2d) -> int:
    """The zeros at each side."""
    if conv.padding == "valid":
        return 0
    sides = {int(n) for n in conv._reversed_padding_repeated_twice}
    if len(sides) != 1:
        raise UnsupportedError("Conv2d with unlike padding on its sides")
    return sides.pop()
