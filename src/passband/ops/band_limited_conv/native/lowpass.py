"""The low-pass of lowpass.py by the compiled kernels, in float32."""

import torch
from torch import Tensor

from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.layout import memory_format
from passband.ops.band_limited_conv.lowpass import LowPass
from passband.ops.band_limited_conv.native.library import load_library
from passband.ops.band_limited_conv.native.memory import TYPES, empty, is_plain, maps_argument
from passband.ops.band_limited_conv.native.tables import AxisTables, low_pass_tables


def suits(geometry: ConvGeometry, dtype: torch.dtype) -> bool:
    """Whether the kernels compute such low-passes on a CPU: those of maps and series."""
    return (
        geometry.axes <= 2
        and not geometry.band.is_full
        and dtype in TYPES
        and load_library() is not None
    )


def applies(geometry: ConvGeometry, dtype: torch.dtype, tensor: Tensor) -> bool:
    """Whether the kernels can compute this call: they read memory, so it must be there."""
    return suits(geometry, dtype) and is_plain(tensor)


def _to_spectra(maps: Tensor, geometry: ConvGeometry, padded: bool) -> Tensor:
    maps, axes = maps.float(), _axes(geometry, padded)
    spectra = empty((*maps.shape[:2], *axes.frequencies[-geometry.axes :]), memory_format(maps))
    _run("analyze", maps, spectra, axes)
    return spectra


def _to_maps(spectra: Tensor, geometry: ConvGeometry, padded: bool) -> Tensor:
    spectra, axes = spectra.float(), _axes(geometry, padded)
    maps = empty((*spectra.shape[:2], *axes.points[-geometry.axes :]), memory_format(spectra))
    _run("synthesize", maps, spectra, axes)
    return maps


def _axes(geometry: ConvGeometry, padded: bool) -> AxisTables:
    tables = low_pass_tables(geometry)
    return tables.padded if padded else tables.map


def _run(kernel: str, maps: Tensor, spectra: Tensor, axes: AxisTables) -> None:
    library = load_library()
    assert library is not None, "applies() was not asked"
    getattr(library, f"passband_{kernel}")(
        maps_argument(maps), maps.shape[0] * maps.shape[1], *axes.pointers,
        None, 0, maps_argument(spectra), torch.get_num_threads(),
    )  # fmt: skip


BY_KERNELS = LowPass(_to_spectra, _to_maps)
