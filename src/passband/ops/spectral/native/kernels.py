"""The compiled kernels with tensors as arguments: between real coefficients and sparse spectra."""

import ctypes
from collections.abc import Sequence
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
from passband.spectrum.packed import UNIT_TYPE, unit_shape

_FOLDER = Path(__file__).parent
_CHUNK_BINS = 8  # of packed.h


class _Bins(ctypes.Structure):
    """`bins_table` of packed.h."""

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
    """`mixture` of packed.h."""

    _fields_ = [
        ("values", c_void_p),
        ("units", c_void_p),
        ("ratio", c_void_p),
        ("first", c_void_p),
        ("second", c_void_p),
        ("constant", c_void_p),
        ("channels", c_int64),
    ]


class _Job(ctypes.Structure):
    """`job` of packed.h."""

    _fields_ = [
        ("real", c_void_p),
        ("maps", Maps),
        ("lanes", c_int64),
        ("stride", c_int64),
        ("count", c_int64),
        ("values", c_void_p),
        ("bits", c_void_p),
        ("offsets", c_void_p),
        ("units", c_void_p),
        ("mix", POINTER(_Mixture)),
        ("table", POINTER(_Bins)),
        ("least", c_float),
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


@dataclass(frozen=True)
class Stored:
    """What there is of a unit of images.

    Args:
        values: (2, count); of coefficients that are to be stored, where they are written.
        bits: Of those that are kept; None: all are.
        units: Of 8-bit values.
        mix: What the values' maps are mixed with.
    """

    values: Tensor
    bits: Tensor | None = None
    units: Tensor | None = None
    mix: Mixture | None = None


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


_JOBS = [POINTER(_Job), c_int64]
_AXES = [POINTER(Axis), POINTER(Axis)]
FUNCTIONS: Functions = {
    "units": ([*_JOBS, c_int64], None),
    "mark": ([*_JOBS, c_int64], None),
    "gather": ([*_JOBS, c_int64], None),
    "scatter": ([*_JOBS, c_int64], None),
    "products": ([*_JOBS, c_int64], None),
    "unpack": ([*_JOBS, *_AXES, c_int64], None),
    "pick": ([*_JOBS, *_AXES, c_int64], None),
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
    table: BinsTable, stored: Sequence[Stored], maps: Sequence[Tensor], geometry: ConvGeometry
) -> None:
    """Write each unit's maps: `scatter`, then `synthesize`, but for less memory."""
    jobs = _Jobs.of_maps(table, maps, stored)
    jobs.run("unpack", *conv_tables(geometry).inputs.pointers)


def pick(
    table: BinsTable, stored: Sequence[Stored], maps: Sequence[Tensor], geometry: ConvGeometry,
    threshold: float = 0.0,
) -> None:  # fmt: skip
    """Write each unit's values, from its maps: `analyze`, then `gather`, but for less memory.

    The steps of 8-bit values are written, too, as by `units`.
    """
    jobs = _Jobs.of_maps(table, maps, stored, threshold)
    jobs.run("pick", *conv_tables(geometry).inputs.pointers)


def products(
    table: BinsTable, stored: Sequence[Stored], others: Sequence[Stored], lanes: Sequence[int],
    channels: int,
) -> Tensor:  # fmt: skip
    """Sums over images and coefficients (3, C), in float64: of the products g x, of g and of x.

    The latter are those of frequency zero alone.

    Args:
        table: Of the bins.
        stored: Of each unit g.
        others: Of each unit x, with the same bits.
        lanes: Images times channels of each.
        channels: C.
    """
    shape = (len(stored), -(-table.bins // _CHUNK_BINS), 3, channels)
    sums = torch.empty(shape, dtype=torch.float64)
    jobs = _Jobs(table, lanes).take(stored)
    for job, own, x in zip(jobs.all, sums, others, strict=True):
        mix = _Mixture(x.values.data_ptr(), _pointer(x.units), channels=channels)
        job.real, job.mix = own.data_ptr(), ctypes.pointer(mix)
    jobs.run("products")
    return sums.sum((0, 1))


def units(table: BinsTable, parts: Sequence[Tensor], threshold: float) -> list[Tensor]:
    """What one step of 8-bit values is (bins, blocks), as `passband.spectrum.packed.pack` has it.

    Args:
        table: Of the bins.
        parts: Of each unit real coefficients (frequencies, images, channels), the first axis
            strided at will.
        threshold: Coefficients of a smaller magnitude are taken for zero.
    """
    jobs = _Jobs.of_real(table, parts, threshold)
    found = [new_units(table, job.lanes) for job in jobs.all]
    for job, own in zip(jobs.all, found, strict=True):
        job.units = own.data_ptr()
    jobs.run("units")
    return found


def new_units(table: BinsTable, lanes: int) -> Tensor:
    """Room for the steps of a unit's 8-bit values."""
    return torch.empty(unit_shape(table.bins, lanes), dtype=UNIT_TYPE)


def mark(
    table: BinsTable,
    parts: Sequence[Tensor],
    threshold: float,
    units: Sequence[Tensor | None],
) -> list[tuple[Tensor, int]]:
    """Bits of the coefficients of at least a magnitude that are not zero, and their number.

    Args:
        table: Of the bins.
        parts: As for `units`.
        threshold: The magnitude.
        units: Where values are stored in 8 bits: then those bits count.
    """
    jobs = _Jobs.of_real(table, parts, threshold)
    counts = [(table.bins * job.lanes + 7) // 8 for job in jobs.all]
    bits = [torch.empty(count, dtype=torch.uint8) for count in counts]
    for job, own_bits, own_units in zip(jobs.all, bits, units, strict=True):
        job.bits, job.units = own_bits.data_ptr(), _pointer(own_units)
    jobs.run("mark")
    return [(own, job.count) for own, job in zip(bits, jobs.all, strict=True)]


def gather(
    table: BinsTable, stored: Sequence[Stored], parts: Sequence[Tensor], threshold: float = 0.0
) -> None:
    """Write each unit's values of the coefficients that its bits name.

    Args:
        table: Of the bins.
        stored: With units, 8-bit values; then those below the threshold are zero.
        parts: As for `units`.
        threshold: The magnitude.
    """
    _Jobs.of_real(table, parts, threshold).take(stored).run("gather")


def scatter(table: BinsTable, stored: Sequence[Stored], parts: Sequence[Tensor]) -> None:
    """Write the real coefficients that each unit's values make up: the adjoint of `gather`."""
    _Jobs.of_real(table, parts).take(stored).run("scatter")


class _Jobs:
    """What the kernels do at once, a unit of images each, with the memory that they work in.

    Args:
        table: Of the bins.
        lanes: Images times channels of each unit.
        threshold: The least magnitude that counts.
        blocks: Whether values are counted by blocks of the lanes.
    """

    def __init__(
        self, table: BinsTable, lanes: Sequence[int], threshold: float = 0.0, blocks: bool = False
    ) -> None:
        self.all = (_Job * len(lanes))()
        self._living: list[object] = []
        counts = [table.bins * (-(-own // LANES) if blocks else 1) for own in lanes]
        offsets = (c_int64 * sum(counts))()
        least = float(np.float32(threshold * threshold))  # as the other implementation compares
        place, of_bins = ctypes.addressof(offsets), ctypes.pointer(table.structure)
        for job, own, count in zip(self.all, lanes, counts, strict=True):
            job.lanes, job.offsets, job.table, job.least = own, place, of_bins, least
            place += ctypes.sizeof(c_int64) * count
        self._living.append(offsets)

    @classmethod
    def of_real(cls, table: BinsTable, parts: Sequence[Tensor], threshold: float = 0.0) -> "_Jobs":
        """With real coefficients."""
        jobs = cls(table, [real[0].numel() for real in parts], threshold)
        for job, real in zip(jobs.all, parts, strict=True):
            job.real, job.stride = real.data_ptr(), real.stride(0)
        return jobs

    @classmethod
    def of_maps(
        cls,
        table: BinsTable,
        maps: Sequence[Tensor],
        stored: Sequence[Stored],
        threshold: float = 0.0,
    ) -> "_Jobs":
        """With maps, and what is stored of them."""
        jobs = cls(table, [own.shape[0] * own.shape[1] for own in maps], threshold, blocks=True)
        for job, own in zip(jobs.all, maps, strict=True):
            job.maps = maps_argument(own)
        return jobs.take(stored)

    def take(self, stored: Sequence[Stored]) -> "_Jobs":
        """With values, bits and what belongs to them."""
        for job, own in zip(self.all, stored, strict=True):
            values = own.values.contiguous()
            self._living.append(values)
            job.count, job.values = values.shape[1], values.data_ptr()
            job.bits, job.units = _pointer(own.bits), _pointer(own.units)
            if own.mix is not None:
                job.mix = ctypes.pointer(own.mix.structure)
        return self

    def run(self, name: str, *arguments: object) -> None:
        """Do it."""
        library = load_library()
        assert library is not None, "suits() was not asked"
        function = getattr(library, f"passband_{name}")
        function(self.all, len(self.all), *arguments, torch.get_num_threads())


def _frequencies(geometry: ConvGeometry) -> int:
    count = 1
    for size in geometry.band.real_sizes:
        count *= size
    return count


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
