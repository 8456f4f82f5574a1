"""How convolutions of the native engine go through their input."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from passband.chain.steps import SHIFT, Place, Steps, UnsupportedError, round_up

_Shift = Callable[[int, int, int], int]
"""Of a tap: input channel, row and column of the kernel."""


@dataclass(frozen=True)
class Layout:
    """How a convolution goes through its input."""

    source: Place
    shift: _Shift
    strides: dict[str, Any]

    @property
    def tall(self) -> bool:
        """Whether several rows are computed at once."""
        return bool(self.strides.get("tall"))

    def shifts(self, conv: nn.Conv2d, rows: int) -> list[int]:
        """Shifts of the first group's taps: input channel, so many rows, column of the kernel."""
        return [
            self.shift(channel, row, column)
            for channel in range(conv.in_channels // conv.groups)
            for row in range(rows)
            for column in range(int(conv.kernel_size[1]))
        ]


def image_layout(steps: Steps, conv: nn.Conv2d, source: Place) -> Layout:
    """Of many images: in bordered maps, which those of one number per channel may lack."""
    source = steps.bordered(source) if padding(conv) > 0 else source
    stride = int(conv.stride[0])
    strides = {"source_row": stride * source.row, "source_column": stride * steps.lanes}
    if is_tall(conv) and conv.out_channels // conv.groups <= steps.most_tall:
        strides["tall"] = 1
    return Layout(source, _in_place(steps, conv, source), strides)


def plane_layout(steps: Steps, conv: nn.Conv2d, source: Place, to: Place) -> Layout:
    """Of one image: in bordered maps if the result is as large, or in shifted copies.

    Raises:
        UnsupportedError: There is none for the stride.
    """
    strides = steps.one_row(to)
    if to.row > to.columns:
        strides["inside"] = steps.inside(to)
    is_alike = (source.rows, source.columns, source.row) == (to.rows, to.columns, to.row)
    is_point = tuple(conv.kernel_size) == (1, 1) and padding(conv) == 0
    if conv.stride[0] > 1 or not is_alike or (to.row == to.columns and not is_point):
        return _shifted_layout(steps, conv, source, to, strides)
    if is_tall(conv) and to.columns % steps.width == 0:  # a row is whole registers
        strides = {"columns": to.columns // steps.width, "source_column": steps.width}
        strides |= {"to_column": steps.width, "tall": 1}
    return Layout(source, _in_place(steps, conv, source), strides)


def is_tall(conv: nn.Conv2d) -> bool:
    """Whether the engine has a kernel for several rows of it."""
    return (conv.kernel_size[0], conv.stride[0], conv.dilation[0]) == (3, 1, 1)


def _in_place(steps: Steps, conv: nn.Conv2d, source: Place) -> _Shift:
    before, (down, right) = padding(conv), conv.dilation

    def shift(channel: int, row: int, column: int) -> int:
        rows, columns = row * int(down) - before, column * int(right) - before
        return channel * source.plane + rows * source.row + columns * steps.lanes

    return shift


def _shifted_layout(
    steps: Steps, conv: nn.Conv2d, source: Place, to: Place, strides: dict[str, Any]
) -> Layout:
    """Copies of the maps of one image, one for each column of the kernel, as the engine's SHIFT.

    Their rows are as long as those of the result. Of stride 2 there are two copies, of the even and
    of the odd rows. Above and below are zeros as far as the kernel reads there.
    """
    stride, before = int(conv.stride[0]), padding(conv)
    if stride > 2:
        raise UnsupportedError(f"Conv2d of stride {stride} of one image")
    down, right = (int(n) for n in conv.dilation)
    # What row i of the kernel reads: so many rows further on, in the copies of which phase.
    rows = [divmod(i * down - before, stride) for i in range(int(conv.kernel_size[0]))]
    columns = [i * right - before for i in range(int(conv.kernel_size[1]))]
    phases = sorted({phase for _, phase in rows})
    above, below = max(0, -rows[0][0]), max(0, rows[-1][0])
    plane = round_up((above + to.rows + below) * to.row + steps.width, steps.width)
    each = len(phases) * len(columns)  # copies of a channel
    key = (source.rows, source.columns, to.rows, to.row, stride, *rows, *columns)
    copies = steps.copies(key, above, replace(to, channels=each * source.channels, plane=plane))

    flat = stride == 1 and source.row == to.row  # rows one after the other are one
    there = np.arange(to.columns) * stride + np.array(columns)[:, None]
    there = (there >= 0) & (there < source.columns)
    for number, phase in enumerate(phases):
        count = min(to.rows + below, -(-(source.rows - phase) // stride))
        if flat:
            inside = np.tile(np.pad(there, ((0, 0), (0, to.row - to.columns))), count)
        else:
            inside = there
        inside = _whole_registers(inside, steps.width)
        start = copies.start + number * len(columns) * plane
        steps.add(
            SHIFT,
            replace(source, start=source.start + phase * source.row),
            replace(copies, start=start, plane=each * plane),
            rows=1 if flat else count, columns=inside.shape[1] // steps.width,
            source_row=stride * source.row, source_column=stride,
            other_plane=plane, inside=inside,
            taps=len(columns), shifts=np.array(columns, dtype=np.int64),
        )  # fmt: skip

    def shift(channel: int, row: int, column: int) -> int:
        further, phase = rows[row]
        copy = (channel * len(phases) + phases.index(phase)) * len(columns) + column
        return copy * plane + further * to.row

    return Layout(copies, shift, strides)


def _whole_registers(inside: NDArray[np.bool_], width: int) -> NDArray[np.int32]:
    """All bits of each number that is inside, and none up to whole registers."""
    length = inside.shape[1]
    return -np.pad(inside, ((0, 0), (0, round_up(length, width) - length))).astype(np.int32)


def padding(conv: nn.Conv2d) -> int:
    """The zeros at each side."""
    if conv.padding == "valid":
        return 0
    sides = {int(n) for n in conv._reversed_padding_repeated_twice}
    if len(sides) != 1:
        raise UnsupportedError("Conv2d with unlike padding on its sides")
    return sides.pop()
