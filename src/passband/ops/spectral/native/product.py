"""The compiled product over channels with tensors as arguments."""

import ctypes
from ctypes import POINTER, c_float, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from passband.ops.band_limited_conv.native.memory import empty, is_plain
from passband.ops.kernel_files import Functions, load_kernels

_ROW = 64  # numbers of the filters that lie side by side, at most
_MULTIPLE = 16  # of which their number is one: of every register's
_TASKS = 16  # of the filters' gradient, at least


class _Spectrum(ctypes.Structure):
    """`spectrum` of product.c."""

    _fields_ = [("data", c_void_p), ("part", c_int64), ("frequency", c_int64), ("image", c_int64)]


_SPECTRUM = POINTER(_Spectrum)
_TAPS = [c_int64, c_int64, c_void_p, c_void_p]
FUNCTIONS: Functions = {
    "active": ([_SPECTRUM, *[c_int64] * 3, c_void_p, c_int64], None),
    "spectral_product": (
        [_SPECTRUM, _SPECTRUM, *[c_int64] * 2, c_void_p, *[c_int64] * 3, *_TAPS, c_void_p, c_float,
         c_int64],
        None,
    ),
    "spectral_gradient": (
        [_SPECTRUM, _SPECTRUM, *[c_int64] * 2, c_void_p, *[c_int64] * 2, *_TAPS, c_int64, c_void_p,
         c_int64],
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
        fold: From taps to slots, even ones first: (E + D, taps).
        cosine: Of the even slots at each frequency, (F, E).
        sine: Of the odd ones, (F, D).
    """

    fold: Tensor
    cosine: Tensor
    sine: Tensor

    @property
    def arguments(self) -> tuple[int, ...]:
        """As the kernels take them."""
        even, odd = self.cosine.shape[1], self.sine.shape[1]
        return even, odd, self.cosine.data_ptr(), self.sine.data_ptr()


def suits(*tensors: Tensor) -> bool:
    """Whether the kernels take such spectra and filters: float32 in memory."""
    return load_library() is not None and all(
        t.dtype == torch.float32 and is_plain(t) for t in tensors
    )


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
    filters, lanes = _filters(weight, tables.fold, adjoint)
    result = empty((2, frequencies, images, lanes))
    active = _active(spectrum)
    _library().passband_spectral_product(
        _structure(spectrum), _structure(result), frequencies, images, active.data_ptr(), terms,
        lanes, filters.shape[3], *tables.arguments, filters.data_ptr(), -1.0 if adjoint else 1.0,
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
    outputs, slots = weight.shape[0], len(tables.fold)
    # the same for any number of threads, so that sums are too
    blocks = -(-inputs // _ROW) * -(-outputs // _ROW)
    ranges = max(1, min(-(-_TASKS // max(1, blocks)), frequencies // 8))
    sums = empty((ranges, slots, outputs * inputs))
    active = _active(grad)
    _library().passband_spectral_gradient(
        _structure(spectrum), _structure(grad), frequencies, images, active.data_ptr(), inputs,
        outputs, *tables.arguments, ranges, sums.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    taps = tables.fold.T @ sums.sum(0)
    return taps.view(-1, outputs, inputs).permute(1, 2, 0).reshape(weight.shape)


def _filters(weight: Tensor, fold: Tensor, adjoint: bool) -> tuple[Tensor, int]:
    """Slots as rows of the product's lanes, (blocks, slots, terms, row); and how many lanes."""
    order = (2, 0, 1) if adjoint else (2, 1, 0)
    taps = weight.detach().flatten(2).permute(order)
    _, terms, lanes = taps.shape
    row = min(_ROW, -(-lanes // _MULTIPLE) * _MULTIPLE)
    blocks = -(-lanes // row)
    folded = (fold @ taps.reshape(len(taps), -1)).view(-1, terms, lanes)
    padded = folded.new_zeros(len(folded), terms, blocks * row)
    padded[..., :lanes] = folded
    return padded.view(len(folded), terms, blocks, row).permute(2, 0, 1, 3).contiguous(), lanes


def _rows(spectrum: Tensor) -> Tensor:
    """With channels side by side."""
    return spectrum if spectrum.stride(3) == 1 else spectrum.contiguous()


def _structure(spectrum: Tensor) -> _Spectrum:
    return _Spectrum(spectrum.data_ptr(), *spectrum.stride()[:3])


def _library() -> ctypes.CDLL:
    library = load_library()
    assert library is not None, "suits() was not asked"
    return library
