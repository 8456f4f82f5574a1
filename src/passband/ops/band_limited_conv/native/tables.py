"""The tables that the kernels work by: positions on an axis, folded, and a basis on them."""

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.native.library import LANES, Axis
from passband.spectrum.band import is_self_conjugate
from passband.spectrum.dft import fourier_basis


class AxisTables:
    """Tables of the rows and the columns of a map, as the kernels take them."""

    def __init__(self, rows: "_Table", columns: "_Table") -> None:
        self._tables = rows, columns
        self.pointers = ctypes.pointer(rows.axis), ctypes.pointer(columns.axis)
        axes = rows.axis, columns.axis
        self.points: tuple[int, ...] = tuple(axis.points for axis in axes)
        self.frequencies: tuple[int, ...] = tuple(axis.cosines + axis.sines for axis in axes)
        self.rows_by_slots: int = (rows.axis.cosines + rows.axis.sines) * (
            columns.axis.slots + columns.axis.odd_slots
        )


@dataclass(frozen=True)
class ConvTables:
    """The tables of one geometry."""

    inputs: AxisTables
    """Points of the map."""
    outputs: AxisTables
    """Points of the output, as far from them as the filter's centre from its first tap."""
    taps: AxisTables
    """Taps around the filter's centre, and a basis that is not normalised."""

    def packed_size(self, lanes: int, terms: int) -> int:
        """Numbers of packed taps."""
        return -(-lanes // LANES) * LANES * terms * self.taps.rows_by_slots


@dataclass(frozen=True)
class LowPassTables:
    """The tables of a low-pass; an axis at full band is left as it is."""

    map: AxisTables
    """Points of the map."""
    padded: AxisTables
    """Points of the padded map; of an axis at full band those of the map."""


@dataclass(frozen=True)
class _Table:
    """An `Axis` and the arrays it points to."""

    axis: Axis
    arrays: tuple[npt.NDArray[np.generic], ...]


@lru_cache(maxsize=1024)
def conv_tables(geometry: ConvGeometry) -> ConvTables:
    """The tables of a geometry of one or two axes."""
    inputs, outputs, taps = [], [], []
    for axis in range(geometry.axes):
        size, kept = geometry.grid[axis], geometry.kept[axis]
        before, dilation = geometry.padding[axis][0], geometry.dilation[axis]
        kernel = geometry.kernel[axis]
        centre = (kernel - 1) // 2
        points = np.arange(geometry.size[axis]) + before
        inputs.append(_table(size, kept, points, normalised=True))
        points = np.arange(geometry.output_size[axis]) * geometry.stride[axis] + centre * dilation
        outputs.append(_table(size, kept, points, normalised=True))
        points = (np.arange(kernel) - centre) * dilation
        taps.append(_table(size, kept, points, normalised=False))
    return ConvTables(*(_of_axes(tables) for tables in (inputs, outputs, taps)))


@lru_cache(maxsize=1024)
def low_pass_tables(geometry: ConvGeometry) -> LowPassTables:
    """The tables of the low-pass of a geometry of one or two axes."""
    inner, padded = [], []
    for axis in range(geometry.axes):
        points, kept = np.arange(geometry.padded_size[axis]), geometry.kept[axis]
        before = geometry.padding[axis][0]
        if geometry.band.is_full_axis(axis):
            inner.append(_identity(geometry.size[axis]))
            padded.append(inner[-1])
            continue
        unpadded = points[before : before + geometry.size[axis]]
        inner.append(_table(geometry.grid[axis], kept, unpadded, normalised=True))
        padded.append(_table(geometry.grid[axis], kept, points, normalised=True))
    return LowPassTables(_of_axes(inner), _of_axes(padded))


def _of_axes(tables: list[_Table]) -> AxisTables:
    """Rows and columns; a series is a map of one row."""
    return AxisTables(*(tables if len(tables) == 2 else (_identity(1), *tables)))


def _identity(points: int) -> _Table:
    """An axis whose numbers stay as they are."""
    arrays = (
        np.arange(points, dtype=np.int32),
        np.zeros(1, np.int32),
        np.eye(points, dtype=np.float32),
        np.zeros(1, np.float32),
    )
    axis = Axis(points, 0, 0, points, points, 0, *(array.ctypes.data for array in arrays))
    return _Table(axis, arrays)


def _table(size: int, kept: int, positions: npt.NDArray[np.int64], *, normalised: bool) -> _Table:
    """Fold positions n and N-n into slots, and evaluate the basis there.

    x[n] + x[N-n] is all that a cosine needs of the two, and x[n] - x[N-n] all that a sine needs.
    """
    positions = positions % size
    index = {int(p): i for i, p in enumerate(positions)}
    pairs, singles, symmetric = [], [], []
    for i, p in enumerate(positions):
        mirror = index.get(int(-p % size))
        if mirror is None:
            singles.append(i)
        elif mirror == i:
            symmetric.append(i)
        elif i < mirror:
            pairs.append((i, mirror))
    first = [a for a, _ in pairs] + singles + symmetric
    alone = np.array([is_self_conjugate(f, size) for f in range(kept)])
    basis = fourier_basis(size, kept).numpy()[positions[first]]
    if not normalised:
        basis = basis * np.where(
            np.concatenate([alone, alone[~alone]]), np.sqrt(size), np.sqrt(size / 2)
        )
    odd = len(pairs) + len(singles)
    arrays = (
        np.array(first, np.int32),
        np.array([b for _, b in pairs] or [0], np.int32),
        np.ascontiguousarray(basis[:, :kept].T, np.float32),
        np.ascontiguousarray(basis[:odd, kept:].T, np.float32),
    )
    axis = Axis(
        len(positions), len(pairs), odd, len(first), kept, int((~alone).sum()),
        *(array.ctypes.data for array in arrays),
    )  # fmt: skip
    return _Table(axis, arrays)
