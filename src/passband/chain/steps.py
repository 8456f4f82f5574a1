"""What the native engine does step by step, and the memory in which its values lie."""

import ctypes
from ctypes import c_float, c_int64, c_void_p
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# Kinds of steps, as in step.h.
(
    CONVOLVE, AVERAGE, MAXIMUM, ADD, AFFINE, COPY, SHIFT, LINEAR, INTERLEAVE, DEPTHWISE,
) = range(10)  # fmt: skip
INFINITY = float("inf")


class UnsupportedError(Exception):
    """Something that the engine has no step for."""


class Step(ctypes.Structure):
    """`step` of step.h."""

    _fields_ = [
        *[
            (name, c_int64)
            for name in (
                "kind", "source", "other", "to", "inputs", "others", "outputs", "groups", "rows",
                "columns",
                "source_plane", "source_row", "source_column", "other_plane", "to_plane", "to_row",
                "to_column", "taps", "size", "tall",
            )
        ],
        ("shifts", c_void_p),
        ("weights", c_void_p),
        ("bias", c_void_p),
        ("before", c_void_p),
        ("tiles", c_void_p),
        ("inside", c_void_p),
        ("low", c_float),
        ("high", c_float),
        ("low_before", c_float),
        ("high_before", c_float),
    ]  # fmt: skip


class End(ctypes.Structure):
    """`end` of engine.c."""

    _fields_ = [
        (name, c_int64) for name in ("source", "channels", "rows", "columns", "plane", "row")
    ]


class Network(ctypes.Structure):
    """`network` of engine.c."""

    _fields_ = [
        ("steps", c_void_p),
        ("count", c_int64),
        ("input", End),
        ("output", End),
        ("lanes", c_int64),
        ("size", c_int64),
        ("direct", c_int64),
    ]


@dataclass(frozen=True)
class Place:
    """Where a value lies: its first number inside the border, and the strides.

    Args:
        start: In numbers from the start of the workspace.
        channels: Channels that lie there.
        rows: Rows of its maps.
        columns: Columns of its maps.
        plane: From a channel to the next.
        row: From a row to the next.
        total: Channels of the value; those that do not lie there are zero.
    """

    start: int
    channels: int
    rows: int
    columns: int
    plane: int
    row: int
    total: int

    def end(self) -> End:
        """As the engine wants it of the input and the output."""
        return End(self.start, self.channels, self.rows, self.columns, self.plane, self.row)


@dataclass
class Steps:
    """The steps written so far, and the workspace that they need.

    Args:
        lanes: 1, or the numbers in a register.
        width: Numbers in a register.
        most_sums: Registers for sums.
        most_tall: Outputs at once of a convolution at several rows.
        border: Zeros around each map.
    """

    lanes: int
    width: int
    most_sums: int
    most_tall: int
    border: int = 0
    steps: list[Step] = field(default_factory=list)
    arrays: list[NDArray[Any]] = field(default_factory=list)
    size: int = 0
    _inside: dict[Place, NDArray[np.int32]] = field(default_factory=dict)
    _made: dict[int, Place] = field(default_factory=dict)
    _copies: dict[tuple[Any, ...], Place] = field(default_factory=dict)
    _free: list[Place] = field(default_factory=list)

    def one_row(self, place: Place) -> dict[str, Any]:
        """Rows of a plane one after the other, borders between them, as one row of vectors."""
        vectors = -(-self.row_length(place) // self.width)
        strides = {"source_column": self.width, "to_column": self.width}
        return {"rows": 1, "columns": vectors, **strides}

    def row_length(self, place: Place) -> int:
        """The numbers of such a row."""
        return (place.rows - 1) * place.row + place.columns

    def inside(self, place: Place) -> NDArray[np.int32]:
        """All bits of each number of such a row that is none of a border."""
        like = replace(place, start=0, channels=0, plane=0, total=0)
        if like not in self._inside:
            points = np.arange(round_up(self.row_length(place), self.width))
            there = (points % place.row < place.columns) & (points // place.row < place.rows)
            self._inside[like] = -there.astype(np.int32)
        return self._inside[like]

    def map(self, channels: int, rows: int, columns: int) -> Place:
        """Maps with a border, which is zero as no step ever writes there for good.

        Small maps of one image have none: with it they would take more registers.
        """
        fit = [p for p in self._free if (p.rows, p.columns) == (rows, columns)]
        fit = [place for place in reversed(fit) if place.channels >= channels]
        if fit:
            place = min(fit, key=lambda place: place.channels)
            self._free.remove(place)
            return replace(place, channels=channels, total=channels)
        if self._is_dense(rows, columns):
            plane = round_up(rows * columns, self.width) + self.width
            place = Place(self.size, channels, rows, columns, plane, columns, channels)
            self._made[place.start] = place
            self.size += channels * plane
            return place
        return self.bordered_map(channels, rows, columns)

    def bordered_map(self, channels: int, rows: int, columns: int) -> Place:
        """New maps with a border, whatever their size."""
        row = (columns + 2 * self.border) * self.lanes
        slack = self.width if self.lanes == 1 else 0  # the last vector of a plane ends in it
        plane = round_up((rows + 2 * self.border) * row + slack, self.width)
        start = round_up(self.size + self.border * (row + self.lanes), self.width)
        self.size = start + channels * plane
        self._made[start] = Place(start, channels, rows, columns, plane, row, channels)
        return self._made[start]

    def _is_dense(self, rows: int, columns: int) -> bool:
        """Whether maps lie without a border, as that saves a sixth of the registers for them."""
        if self.lanes > 1 or columns == 1 or columns % self.width == 0:
            return False
        bordered = (rows - 1) * (columns + 2 * self.border) + columns
        return 6 * -(-rows * columns // self.width) <= 5 * -(-bordered // self.width)

    def copies(self, key: tuple[Any, ...], above: int, like: Place) -> Place:
        """Shifted copies with so many rows of zeros above, where others of that key lay before.

        All of one key have the same zeros, and what reads them comes next.
        """
        if key not in self._copies or self._copies[key].channels < like.channels:
            start = round_up(self.size + above * like.row, self.width)
            self._copies[key] = replace(like, start=start)
            self.size = start + like.channels * like.plane
        return replace(self._copies[key], channels=like.channels)

    def vector(self, channels: int) -> Place:
        """One number per channel."""
        start = self.size
        self.size += round_up(channels, self.width) * self.lanes
        return Place(start, channels, 1, 1, self.lanes, self.lanes, channels)

    def release(self, place: Place) -> None:
        """Let other maps of that size lie there."""
        if place.start in self._made:
            self._free.append(self._made[place.start])

    def bordered(self, place: Place) -> Place:
        """A place of the same maps with zeros around them."""
        if self.border == 0 or place.row > place.columns * self.lanes:
            return place
        to = self.bordered_map(place.channels, place.rows, place.columns)
        self.add(COPY, place, to)
        return to

    def whole(self, place: Place) -> Place:
        """A place that has all channels of its value."""
        if place.channels == place.total:
            return place
        to = self.map(place.total, place.rows, place.columns)
        self.add(COPY, place, to, inputs=place.channels)
        return to

    def add(self, kind: int, source: Place, to: Place, **more: Any) -> Step:
        """A step that goes row by row, with what differs from that."""
        values = {
            "kind": kind, "source": source.start, "to": to.start, "inputs": source.channels,
            "outputs": to.channels, "groups": 1, "rows": to.rows, "columns": to.columns,
            "source_plane": source.plane, "source_row": source.row, "source_column": self.lanes,
            "to_plane": to.plane, "to_row": to.row, "to_column": self.lanes,
            "low": -INFINITY, "high": INFINITY, **more,
        }  # fmt: skip
        step = Step(**{k: self._kept(v) for k, v in values.items()})
        self.steps.append(step)
        return step

    def _kept(self, value: Any) -> Any:
        """The address of an array, which is kept as long as the program."""
        if not isinstance(value, np.ndarray):
            return value
        self.arrays.append(value)
        return value.ctypes.data


def numbers(values: Tensor | None, count: int) -> NDArray[np.float32]:
    """A copy of values as the engine reads them; zeros where there are none."""
    if values is None:
        return np.zeros(count, np.float32)
    return np.array(values.detach().float().numpy(), order="C")


def round_up(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple
