"""The compiled kernels with tensors as arguments: between real coefficients and sparse spectra."""

import ctypes
from ctypes import POINTER, c_float, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.native import library as transforms
from passband.ops.band_limited_conv.native.library import LANES, Axis, Maps
from passband.ops.band_limited_conv.native.memory import empty, is_plain, maps_argument
from passband.ops.band_limited_conv.native.tables import conv_tables
from passband.ops.kernel_files import Functions, load_kernels

_FOLDER = Path(__file__).parent
_CHUNK_BINS = 8  # of packed.c


class _Bins(ctypes.Structure):
    """`bins_table` of packed.c."""

    _fields_ = [
        ("bins", c_int64),
        ("rows", c_void_p),
        ("weights", c_void_p),
        ("groups", c_int64),
        ("group_bins", c_void_p),
        ("group_rows", c_void_p),
        ("group_places", c_void_p),
    ]


class _Mixture(ctypes.Structure):
    """`mixture` of packed.c."""

    _fields_ = [
        ("values", c_void_p),
        ("units", c_void_p),
        ("ratio", c_void_p),
        ("first", c_void_p),
        ("second", c_void_p),
        ("constant", c_void_p),
        ("channels", c_int64),
    ]


@dataclass(frozen=True)
class Mixture:
    """What is added to values g of a gradient: of the maps, ``first g + second x + constant``.

    Args:
        values: Those of x, for the same bits as g's.
        units: Of them, if they are 8-bit ones.
        ratio: Of each bin (bins,): from what makes up the map x to what is as g is.
        first: A factor of each channel.
        second: Likewise.
        constant: In each channel the coefficient of frequency zero of what is added.
    """

    values: Tensor
    units: Tensor | None
    ratio: Tensor
    first: Tensor
    second: Tensor
    constant: Tensor

    @property
    def structure(self) -> _Mixture:
        """Pointers to the tensors, which have to live on."""
        tensors = self.values, self.units, self.ratio, self.first, self.second, self.constant
        return _Mixture(*map(_pointer, tensors), len(self.first))


class BinsTable:
    """Of which real coefficients each complex one is made, and with which weights.

    Args:
        rows: (bins, 4): two real coefficients of its real part, and two of its imaginary part; one
            that there is none of is the other one.
        weights: (bins, 4), zero where there is none.
    """

    def __init__(self, rows: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]) -> None:
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, own in enumerate(rows):
            groups.setdefault(tuple(sorted(set(own.tolist()))), []).append(place)
        of_bins = np.full((len(groups), 2), -1, np.int32)
        of_rows = np.full((len(groups), 4), -1, np.int32)
        places = np.zeros((len(groups), 2, 4), np.int32)
        for index, (own_rows, bins) in enumerate(groups.items()):
            of_bins[index, : len(bins)] = bins
            of_rows[index, : len(own_rows)] = own_rows
            for b, place in enumerate(bins):
                places[index, b] = [own_rows.index(row) for row in rows[place].tolist()]
        self.bins = len(rows)
        self._arrays = (
            np.ascontiguousarray(rows, np.int32), np.ascontiguousarray(weights, np.float32),
            of_bins, of_rows, places,
        )  # fmt: skip
        rows_at, weights_at, *groups_at = (array.ctypes.data for array in self._arrays)
        self.structure = _Bins(self.bins, rows_at, weights_at, len(groups), *groups_at)


_TABLE = POINTER(_Bins)
_MAPS = [_TABLE, POINTER(Maps), c_int64, POINTER(Axis), POINTER(Axis)]
_REAL = [_TABLE, c_void_p, c_int64, c_int64]
FUNCTIONS: Functions = {
    "units": ([*_REAL, c_float, c_void_p, c_int64], None),
    "mark": ([*_REAL, c_float, *[c_void_p] * 3, c_int64], c_int64),
    "gather": (
        [*_REAL, c_float, c_void_p, c_void_p, c_int64, c_void_p, c_void_p, c_int64],
        None,
    ),
    "scatter": ([*_REAL, c_void_p, c_void_p, c_int64, c_void_p, c_void_p, c_int64], None),
    "unpack": (
        [*_MAPS, c_void_p, c_void_p, c_int64, c_void_p, POINTER(_Mixture), c_void_p, c_int64],
        None,
    ),
    "products": (
        [
            _TABLE,
            c_int64,
            c_void_p,
            c_int64,
            c_void_p,
            POINTER(_Mixture),
            c_void_p,
            c_void_p,
            c_int64,
        ],
        None,
    ),
    "pick": ([*_MAPS, c_void_p, c_int64, c_void_p, c_void_p, c_int64], None),
}


@cache
def load_library() -> ctypes.CDLL | None:
    """The best kernels for this machine, beside those of the transforms; None without both."""
    if transforms.load_library() is None:
        return None
    return load_kernels(_FOLDER, FUNCTIONS)


def suits(axes: int, *tensors: Tensor | None) -> bool:
    """Whether the kernels take such tensors: float32 in memory, of one axis or two."""
    return (
        axes <= 2
        and load_library() is not None
        and all(t.dtype == torch.float32 and is_plain(t) for t in tensors if t is not None)
    )


def analyze(maps: Tensor, geometry: ConvGeometry) -> Tensor:
    """Real coefficients (frequencies, B, C) of maps, as `matmul.analyze` gives them."""
    coefficients = empty((_frequencies(geometry), *maps.shape[:2]))
    _transform("analyze", maps, coefficients, geometry)
    return coefficients


def synthesize(coefficients: Tensor, maps: Tensor, geometry: ConvGeometry) -> None:
    """Write the maps (B, C, n1, ..) of real coefficients, as `matmul.analyze_adjoint` has them."""
    _transform("synthesize", maps, coefficients.contiguous(), geometry)


def _transform(name: str, maps: Tensor, coefficients: Tensor, geometry: ConvGeometry) -> None:
    library = transforms.load_library()
    assert library is not None, "suits() was not asked"
    planes = maps.shape[0] * maps.shape[1]
    getattr(library, f"passband_{name}")(
        maps_argument(maps), planes, *conv_tables(geometry).inputs.pointers,
        coefficients.data_ptr(), planes, None, torch.get_num_threads(),
    )  # fmt: skip


def unpack(
    table: BinsTable,
    values: Tensor,
    bits: Tensor | None,
    maps: Tensor,
    geometry: ConvGeometry,
    units: Tensor | None = None,
    mix: Mixture | None = None,
) -> None:
    """Write the maps that values make up: `scatter`, then `synthesize`, but for less memory."""
    values = values.contiguous()
    _library().passband_unpack(
        *_maps(table, maps, geometry), _pointer(units), _pointer(bits), values.shape[1],
        values.data_ptr(), None if mix is None else mix.structure, _offsets(table, maps),
        torch.get_num_threads(),
    )  # fmt: skip


def products(
    table: BinsTable,
    values: Tensor,
    bits: Tensor | None,
    lanes: tuple[int, int],
    others: Tensor,
    units: Tensor | None,
) -> Tensor:
    """Sums over images and coefficients (3, C), in float64: of the products g x, of g and of x.

    The latter are those of frequency zero alone.

    Args:
        table: Of the bins.
        values: Of g, (2, count).
        bits: Of those that are kept; None: all are.
        lanes: Images and channels.
        others: Of x, likewise.
        units: Of those, if they are 8-bit ones.
    """
    values = values.contiguous()
    images, channels = lanes
    x = _Mixture(others.data_ptr(), _pointer(units), channels=channels)
    sums = torch.empty(-(-table.bins // _CHUNK_BINS), 3, channels, dtype=torch.float64)
    _library().passband_products(
        ctypes.byref(table.structure), images * channels, _pointer(bits), values.shape[1],
        values.data_ptr(), x, sums.data_ptr(), _offsets(table),
        torch.get_num_threads(),
    )  # fmt: skip
    return sums.sum(0)


def pick(
    table: BinsTable, maps: Tensor, bits: Tensor | None, geometry: ConvGeometry, to: Tensor
) -> Tensor:
    """The values of maps that bits name: `analyze`, then `gather`, but for less memory.

    Args:
        table: Of the bins.
        maps: (b, C, n1, ..).
        bits: Of those that are kept; None: all are.
        geometry: Of the transform.
        to: Where they are written, (2, count).
    """
    _library().passband_pick(
        *_maps(table, maps, geometry), _pointer(bits), to.shape[1], to.data_ptr(),
        _offsets(table, maps), torch.get_num_threads(),
    )  # fmt: skip
    return to


def _frequencies(geometry: ConvGeometry) -> int:
    count = 1
    for size in geometry.band.real_sizes:
        count *= size
    return count


def units(table: BinsTable, real: Tensor, threshold: float) -> Tensor:
    """The unit of each bin's 8-bit values (bins,), as `passband.spectrum.packed.pack` has it.

    Args:
        table: Of the bins.
        real: Real coefficients (frequencies, images, channels), the first axis strided at will.
        threshold: Coefficients of a smaller magnitude are taken for zero.
    """
    found = real.new_empty(table.bins)
    _library().passband_units(
        *_real(table, real), _square(threshold), found.data_ptr(), torch.get_num_threads()
    )
    return found


def mark(
    table: BinsTable, real: Tensor, threshold: float, units: Tensor | None = None
) -> tuple[Tensor, int]:
    """Bits of the coefficients of at least a magnitude that are not zero, and their number.

    Args:
        table: Of the bins.
        real: As for `units`.
        threshold: The magnitude.
        units: Where values are stored in 8 bits: then those bits count.
    """
    lanes = real[0].numel()
    bits = torch.empty((table.bins * lanes + 7) // 8, dtype=torch.uint8)
    count = _library().passband_mark(
        *_real(table, real), _square(threshold), _pointer(units), bits.data_ptr(),
        _offsets(table), torch.get_num_threads(),
    )  # fmt: skip
    return bits, count


def gather(
    table: BinsTable,
    real: Tensor,
    bits: Tensor | None,
    count: int,
    units: Tensor | None = None,
    threshold: float = 0.0,
) -> Tensor:
    """The values (2, count) of the coefficients that the bits name.

    Args:
        table: Of the bins.
        real: As for `units`.
        bits: Of those that are kept; None: all are.
        count: How many.
        units: Where values are stored in 8 bits; then those below the threshold are zero.
        threshold: The magnitude.
    """
    values = real.new_empty(2, count, dtype=real.dtype if units is None else torch.int8)
    _library().passband_gather(
        *_real(table, real), _square(threshold), _pointer(units), _pointer(bits), count,
        values.data_ptr(), _offsets(table), torch.get_num_threads(),
    )  # fmt: skip
    return values


def scatter(
    table: BinsTable,
    values: Tensor,
    bits: Tensor | None,
    real: Tensor,
    units: Tensor | None = None,
) -> None:
    """Write the real coefficients that the values make up: the adjoint of `gather`."""
    values = values.contiguous()
    _library().passband_scatter(
        *_real(table, real), _pointer(units), _pointer(bits), values.shape[1], values.data_ptr(),
        _offsets(table), torch.get_num_threads(),
    )  # fmt: skip


def _square(threshold: float) -> float:
    """Of a magnitude, in single precision, as the other implementation compares."""
    return float(np.float32(threshold * threshold))


def _library() -> ctypes.CDLL:
    library = load_library()
    assert library is not None, "suits() was not asked"
    return library


def _real(table: BinsTable, real: Tensor) -> tuple[object, int, int, int]:
    return ctypes.byref(table.structure), real.data_ptr(), real[0].numel(), real.stride(0)


def _maps(table: BinsTable, maps: Tensor, geometry: ConvGeometry) -> tuple[object, ...]:
    planes = maps.shape[0] * maps.shape[1]
    axes = conv_tables(geometry).inputs.pointers
    return ctypes.byref(table.structure), maps_argument(maps), planes, *axes


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _offsets(table: BinsTable, maps: Tensor | None = None) -> ctypes.Array[c_int64]:
    """Working memory: values before those of each bin, or of each block of the maps' lanes."""
    blocks = 1 if maps is None else -(-maps.shape[0] * maps.shape[1] // LANES)
    return (c_int64 * (table.bins * blocks))()
