"""The tables that the kernels work by, read back from the memory they point to."""

import ctypes

import numpy as np
import pytest

from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.native.library import Axis
from passband.ops.band_limited_conv.native.tables import conv_tables
from passband.spectrum.dft import fourier_basis


def array(pointer: int, kind: type, *shape: int) -> np.ndarray:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((kind * count).from_address(pointer)).reshape(shape)


def unfolded(axis: Axis) -> np.ndarray:
    """The basis (frequencies, points) that folding and the two tables amount to."""
    first = array(axis.first, ctypes.c_int32, axis.slots)
    cosine = array(axis.cosine, ctypes.c_float, axis.cosines, axis.slots)
    basis = np.zeros((axis.cosines + axis.sines, axis.points))
    basis[: axis.cosines, first] = cosine
    sine = array(axis.sine, ctypes.c_float, axis.sines, axis.odd_slots) if axis.sines else None
    if sine is not None:
        basis[axis.cosines :, first[: axis.odd_slots]] = sine
    if axis.pairs:
        second = array(axis.second, ctypes.c_int32, axis.pairs)
        basis[: axis.cosines, second] = cosine[:, : axis.pairs]
        if sine is not None:
            basis[axis.cosines :, second] = -sine[:, : axis.pairs]
    return basis


GEOMETRIES = {
    "same": conv_geometry((17, 16), (3, 5), padding=(1, 2), compression=0.5),
    "full": conv_geometry((8, 9), (3, 2)),
    "even filters, strides": conv_geometry((13, 16), (4, 2), (2, 3), (2, 1), band=(3, 5)),
    "dilation, larger grid": conv_geometry((11, 9), (3, 3), 1, 1, (2, 3), fft_size=20, band=11),
    "one coefficient": conv_geometry((6, 5), (3, 3), padding=1, band=1),
    "series": conv_geometry((31,), (5,), 2, 2, 3, compression=0.7),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_folded_tables_are_the_basis_at_the_points(name: str) -> None:
    """Of inputs behind their padding, of outputs and of taps, both from the filter's centre."""
    geometry = GEOMETRIES[name]
    tables = conv_tables(geometry)
    for i in range(geometry.axes):
        size, kept = geometry.grid[i], geometry.kept[i]
        basis = fourier_basis(size, kept).numpy().T
        centre = (geometry.kernel[i] - 1) // 2
        points = {
            "inputs": np.arange(geometry.size[i]) + geometry.padding[i][0],
            "outputs": np.arange(geometry.output_size[i]) * geometry.stride[i]
            + centre * geometry.dilation[i],
            "taps": (np.arange(geometry.kernel[i]) - centre) * geometry.dilation[i],
        }
        for which, positions in points.items():
            axis = getattr(tables, which).pointers[i - geometry.axes].contents
            expected = basis[:, positions % size]
            if which == "taps":  # plain cosines and sines
                frequencies = np.r_[np.arange(kept), 1 : 1 + axis.sines][:, None]
                angles = 2 * np.pi * frequencies * positions / size
                is_cosine = np.arange(len(angles))[:, None] < kept
                expected = np.where(is_cosine, np.cos(angles), np.sin(angles))
            # the tables are rounded to float32
            np.testing.assert_allclose(unfolded(axis), expected, atol=1e-6)


def test_what_can_be_folded_is() -> None:
    """A filter around its centre, and a map in the middle of its padding: half of the points."""
    tables = conv_tables(GEOMETRIES["same"])
    rows, columns = (pointer.contents for pointer in tables.taps.pointers)
    assert (rows.pairs, rows.odd_slots, rows.slots) == (1, 1, 2)
    assert (columns.pairs, columns.odd_slots, columns.slots) == (2, 2, 3)
    rows, columns = (pointer.contents for pointer in tables.inputs.pointers)
    # 17 points from 1 on of a grid of 19: 1..9 with 18..10, and the last has lost its partner
    assert (rows.points, rows.pairs, rows.slots) == (17, 8, 9)
    # 16 points from 2 on of a grid of 20: 2..9 with 18..11, where 18 is padding; 10 is alone
    assert (columns.points, columns.pairs, columns.odd_slots, columns.slots) == (16, 7, 8, 9)
