"""The compiled product over channels with tensors as arguments."""

import ctypes
from ctypes import POINTER, c_float, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from passband.ops.band_limited_conv.native.convolution import lanes_and_terms
from passband.ops.band_limited_conv.native.library import LANES
from passband.ops.band_limited_conv.native.memory import empty
from passband.ops.kernel_files import Functions, load_kernels
from passband.ops.spectral.native import kernels

_MULTIPLE = 16  # of which the numbers of filters that lie side by side are one: of any register's
_TASKS = 16  # of the filters' gradient, at least


class _Spectrum(ctypes.Structure):
    """`spectrum` of product.c."""

    _fields_ = [("data", c_void_p), ("part", c_int64), ("frequency", c_int64), ("image", c_int64)]


class _Taps(ctypes.Structure):
    """`tap_tables` of product.c."""

    _fields_ = [
        *((name, c_int64) for name in ("taps", "pairs", "even", "odd")),
        *((name, c_void_p) for name in ("first", "second", "cosine", "sine")),
    ]


_SPECTRUM, _TAPS = POINTER(_Spectrum), POINTER(_Taps)
FUNCTIONS: Functions = {
    "active": ([_SPECTRUM, *[c_int64] * 3, c_void_p, c_int64], None),
    "fold_taps": (
        [c_void_p, c_void_p, *[c_int64] * 4, _TAPS, c_void_p, c_int64, c_int64],
        None,
    ),
    "spectral_product": (
        [_SPECTRUM, _SPECTRUM, *[c_int64] * 2, c_void_p, *[c_int64] * 3, _TAPS, c_void_p, c_float,
         c_int64],
        None,
    ),
    "spectral_gradient": (
        [_SPECTRUM, _SPECTRUM, *[c_int64] * 2, c_void_p, *[c_int64] * 2, _TAPS, c_int64, c_void_p,
         c_void_p, c_int64],
        None,
    ),
}  # fmt: skip


@cache
def load_library() -> ctypes.CDLL | None:
    """The best kernels for this machine; None where none were compiled for it."""
    return load_kernels(Path(__file__).parent, FUNCTIONS)


@dataclass(frozen=True)
class TapTables:
    """How filters come to frequencies: by sums and differences of taps at opposite places.

    Args:
        first: A tap of each even slot, (E,) 32-bit integers: those of pairs, single ones, and last
            one in the middle, which alone has no sine.
        second: The opposite tap of each pair.
        cosine: Of the even slots at each frequency, (F, E).
        sine: Of the odd ones, (F, D).
    """

    first: Tensor
    second: Tensor
    cosine: Tensor
    sine: Tensor

    @property
    def slots(self) -> int:
        """E + D."""
        return self.cosine.shape[1] + self.sine.shape[1]

    @property
    def structure(self) -> _Taps:
        """As the kernels take them; the tensors have to live on."""
        tensors = self.first, self.second, self.cosine, self.sine
        pairs, even, odd = len(self.second), self.cosine.shape[1], self.sine.shape[1]
        return _Taps(even + pairs, pairs, even, odd, *(tensor.data_ptr() for tensor in tensors))


def suits(*tensors: Tensor) -> bool:
    """Whether the kernels take such spectra and filters: float32 in memory."""
    return load_library() is not None and kernels.suits(1, *tensors)


def _active(spectrum: Tensor) -> Tensor:
    """Frequencies (F,) at which a spectrum is not zero in some image and channel, as bytes."""
    _, frequencies, images, channels = spectrum.shape
    found = torch.empty(frequencies, dtype=torch.uint8)
    _library().passband_active(
        _structure(spectrum), frequencies, images, channels, found.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return found


def multiply(spectrum: Tensor, weight: Tensor, tables: TapTables, adjoint: bool = False) -> Tensor:
    """The product (2, F, B, O); its adjoint takes (2, F, B, O) to (2, F, B, C).

    Args:
        spectrum: (2, F, B, C), its channels side by side, else it is copied.
        weight: (O, C, k1, ..).
        tables: Of the filters.
        adjoint: Which of the two.
    """
    spectrum = _rows(spectrum)
    _, frequencies, images, terms = spectrum.shape
    filters, lanes = _folded(weight, tables, adjoint)
    result = empty((2, frequencies, images, lanes))
    active = _active(spectrum)
    _library().passband_spectral_product(
        _structure(spectrum), _structure(result), frequencies, images, active.data_ptr(), terms,
        lanes, filters.shape[3], tables.structure, filters.data_ptr(), -1.0 if adjoint else 1.0,
        torch.get_num_threads(),
    )  # fmt: skip
    return result


def weight_gradient(spectrum: Tensor, grad: Tensor, weight: Tensor, tables: TapTables) -> Tensor:
    """The gradient of the filters from a spectrum (2, F, B, C) and the product's gradient.

    Args:
        spectrum: As for `multiply`.
        grad: (2, F, B, O).
        weight: (O, C, k1, ..), of which only the shape counts.
        tables: Of the filters.
    """
    spectrum, grad = _rows(spectrum), _rows(grad)
    _, frequencies, images, inputs = spectrum.shape
    outputs = weight.shape[0]
    # the same for any number of threads, so that sums are too
    blocks = -(-inputs // LANES) * -(-outputs // LANES)
    ranges = max(1, min(-(-_TASKS // max(1, blocks)), frequencies // 8))
    sums, result = empty((ranges, tables.slots, outputs, inputs)), empty(tuple(weight.shape))
    active = _active(grad)
    _library().passband_spectral_gradient(
        _structure(spectrum), _structure(grad), frequencies, images, active.data_ptr(), inputs,
        outputs, tables.structure, ranges, sums.data_ptr(), result.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return result


def _folded(weight: Tensor, tables: TapTables, adjoint: bool) -> tuple[Tensor, int]:
    """Slots as rows of the product's lanes, (blocks, slots, terms, row); and how many lanes."""
    weight = weight.contiguous()
    lanes, terms, *strides = lanes_and_terms(weight, adjoint)
    row = min(LANES, -(-lanes // _MULTIPLE) * _MULTIPLE)
    folded = empty((-(-lanes // row), tables.slots, terms, row))
    start = weight.data_ptr()
    _library().passband_fold_taps(
        start, start + weight.nbytes, lanes, terms, *strides, tables.structure, folded.data_ptr(),
        row, torch.get_num_threads(),
    )  # fmt: skip
    return folded, lanes


def _rows(spectrum: Tensor) -> Tensor:
    """With channels side by side."""
    return spectrum if spectrum.stride(3) == 1 else spectrum.contiguous()


def _structure(spectrum: Tensor) -> _Spectrum:
    return _Spectrum(spectrum.data_ptr(), *spectrum.stride()[:3])


def _library() -> ctypes.CDLL:
    library = load_library()
    assert library is not None, "suits() was not asked"
    return library
