"""The tables that the kernels work by: positions on an axis, folded, and a basis on them."""

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.native.library import Axis
from passband.spectrum.band import is_self_conjugate
from passband.spectrum.dft import fourier_basis


@dataclass(frozen=True)
class AxisTable:
    """An `Axis` and the arrays it points to."""

    axis: Axis
    arrays: tuple[npt.NDArray[np.generic], ...]

    @property
    def pointer(self) -> "ctypes._Pointer[Axis]":
        """What the kernels take."""
        return ctypes.pointer(self.axis)


@dataclass(frozen=True)
class ConvTables:
    """The tables of one geometry, each for rows and columns."""

    inputs: tuple[AxisTable, AxisTable]
    """Points of the map."""
    outputs: tuple[AxisTable, AxisTable]
    """Points of the output, as far from them as the filter's centre from its first tap."""
    taps: tuple[AxisTable, AxisTable]
    """Taps around the filter's centre, and a basis that is not normalised."""


@lru_cache(maxsize=1024)
def conv_tables(geometry: ConvGeometry) -> ConvTables:
    """The tables of a geometry of one or two axes; a series is a map of one row."""
    inputs, outputs, taps = [], [], []
    for axis in range(geometry.axes):
        size, kept = geometry.grid[axis], geometry.kept[axis]
        before = geometry.padding[axis][0]
        dilation, stride = geometry.dilation[axis], geometry.stride[axis]
        kernel = geometry.kernel[axis]
        centre = (kernel - 1) // 2
        inputs.append(_table(size, kept, np.arange(geometry.size[axis]) + before, True))
        positions = np.arange(geometry.output_size[axis]) * stride + centre * dilation
        outputs.append(_table(size, kept, positions, True))
        taps.append(_table(size, kept, (np.arange(kernel) - centre) * dilation, False))
    if geometry.axes == 1:
        for tables in (inputs, outputs, taps):
            tables.insert(0, _table(1, 1, np.arange(1), True))
    return ConvTables(*((t[0], t[1]) for t in (inputs, outputs, taps)))


def _table(size: int, kept: int, positions: npt.NDArray[np.int64], normalised: bool) -> AxisTable:
    """Fold positions n and N-n, and evaluate the basis of the frequencies below `kept` there."""
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
    return AxisTable(axis, arrays)
