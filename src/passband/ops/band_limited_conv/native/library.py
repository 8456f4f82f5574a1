"""The compiled kernels: which of them this machine runs, and their arguments."""

import ctypes
from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from passband.ops.kernel_files import Functions, load_kernels

_FOLDER = Path(__file__).parent

LANES = 64  # of core.h


class Axis(ctypes.Structure):
    """`axis` of core.h."""

    _fields_ = [
        ("points", c_int64),
        ("pairs", c_int64),
        ("odd_slots", c_int64),
        ("slots", c_int64),
        ("cosines", c_int64),
        ("sines", c_int64),
        ("first", c_void_p),
        ("second", c_void_p),
        ("cosine", c_void_p),
        ("sine", c_void_p),
    ]


class Maps(ctypes.Structure):
    """`maps` of core.h."""

    _fields_ = [
        ("data", c_void_p),
        ("channels", c_int64),
        ("batch_stride", c_int64),
        ("channel_stride", c_int64),
        ("row_stride", c_int64),
        ("column_stride", c_int64),
    ]


class Norm(ctypes.Structure):
    """`norm` of normalise.c."""

    _fields_ = [
        ("mean", c_void_p),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("low", c_float),
        ("high", c_float),
        ("slope", c_float),
    ]


_AXES = [POINTER(Axis)] * 2
_ARGUMENTS: dict[str, list[Any]] = {
    "advise": [c_void_p, c_int64],
    "analyze": [
        POINTER(Maps), c_int64, *_AXES, c_void_p, c_int64, POINTER(Maps), c_int64,
    ],
    "synthesize": [
        POINTER(Maps), c_int64, *_AXES, c_void_p, c_int64, POINTER(Maps), c_int64,
    ],
    "pack_taps": [c_void_p, c_void_p, *[c_int64] * 4, c_float, *_AXES, c_void_p, c_int64],
    "unpack_taps": [
        c_void_p, *[c_int64] * 4, *_AXES, c_void_p, c_void_p, c_int, c_int64,
    ],
    "product": [
        c_void_p, *[c_int64] * 3, c_void_p, *[c_int64] * 3, *[POINTER(Axis)] * 3, c_void_p,
        c_float, c_void_p, c_float, c_int64,
    ],
    "correlate": [
        c_void_p, *[c_int64] * 2, c_void_p, *[c_int64] * 4, *[POINTER(Axis)] * 3, c_void_p,
        c_int64,
    ],
    "norm_sums": [c_void_p, c_void_p, *[c_int64] * 4, POINTER(Norm), c_void_p, c_int64],
    "norm_backward": [
        *[c_void_p] * 3, *[c_int64] * 4, POINTER(Norm), c_void_p, c_void_p, c_int64,
    ],
    "mask": [*[c_void_p] * 3, *[c_int64] * 2, c_float, c_int64],
    "activate": [*[c_void_p] * 3, *[c_int64] * 2, c_float, c_float, c_int64],
    "maxima": [c_void_p, *[c_int64] * 5, c_void_p, c_void_p, c_int64],
    "maxima_gradient": [c_void_p, c_void_p, *[c_int64] * 5, c_void_p, c_int64],
}  # fmt: skip


FUNCTIONS: Functions = {name: (arguments, None) for name, arguments in _ARGUMENTS.items()}


@cache
def load_library() -> ctypes.CDLL | None:
    """The best kernels for this machine; None where none were compiled for it."""
    return load_kernels(_FOLDER, FUNCTIONS)
