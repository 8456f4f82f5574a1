"""Which algorithm runs: the one that was asked for, or for "auto" the fastest by a model."""

import operator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from passband.ops.band_limited_conv.cost import multiplications
from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.native import convolution as native
from passband.ops.band_limited_conv.native import lowpass as native_lowpass
from passband.ops.band_limited_conv.speed import Call, seconds
from passband.ops.band_limited_conv.triton import obstacle
from passband.ops.tracing import run_as_constant

ALGORITHMS = ("auto", "fft", "lowpass", "matmul", "triton")

# Elsewhere than on a CPU, a multiplication of our transforms and batched products is taken to cost
# this many of the vendor's convolution. Not measured.
_MATMUL_COST = 5.0

# At full band the result is torch's own, so the kernels have to be faster beyond the doubt that one
# process leaves about the other: layers estimated at 0.85 of torch's time took up to 1.4 of it.
_FULL_BAND_MARGIN = 0.8

_COUNTED = "by the count of multiplications; not measured on this device"

_TRACED_BATCH = 32


def check_algorithm(algorithm: str, device: torch.device | None = None) -> None:
    """Check a name, and that the algorithm can run here, or on a device.

    Args:
        algorithm: A name.
        device: That of the tensors; None where there are none yet, as when a layer is made.

    Raises:
        ValueError: The name is unknown, or the algorithm cannot run, with the reason.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(
            f"algorithm is {algorithm!r}, allowed are {', '.join(map(repr, ALGORITHMS))}"
        )
    if algorithm == "triton":
        reason = obstacle(None if device is None else device.type)
        if reason is not None:
            raise ValueError(
                f"algorithm 'triton' cannot run here: {reason}; use 'auto', 'lowpass' or 'matmul'"
            )


@dataclass(frozen=True)
class Choice:
    """An algorithm, and why it is the one that runs."""

    algorithm: str
    reason: str


def select_algorithm(
    algorithm: str,
    geometry: ConvGeometry,
    batch: int,
    in_channels: int,
    out_channels: int,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    training: bool = True,
) -> Choice:
    """The algorithm that runs, from shapes alone; compiled or exported, from those but the batch.

    On a CPU the one that takes less time by `speed.py`, elsewhere the one that multiplies
    less: that rule is not measured.

    Args:
        algorithm: A name, or "auto".
        geometry: Static shapes and the band.
        batch: Images.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        device: That of the tensors; None is a CPU.
        dtype: Type of the product over channels.
        training: Whether a backward pass follows.

    Examples:
        >>> from passband.ops.band_limited_conv.geometry import conv_geometry
        >>> narrow = conv_geometry((32, 32), (3, 3), padding=1, compression=0.85)
        >>> select_algorithm("auto", narrow, 32, 64, 64).algorithm
        'matmul'
        >>> full = conv_geometry((32, 32), (3, 3), padding=1)
        >>> select_algorithm("auto", full, 32, 64, 64, dtype=torch.float64)
        Choice(algorithm='lowpass', reason="full band: torch's convolution")
    """
    if algorithm != "auto":
        return Choice(algorithm, "asked for")
    fields = (
        geometry.size, geometry.padding, geometry.kernel, geometry.stride, geometry.dilation,
        geometry.groups, geometry.grid, geometry.kept,
    )  # fmt: skip
    # traced once and run at any batch, so it must not depend on it then
    batch = _TRACED_BATCH if torch.compiler.is_compiling() else batch
    channels = (operator.index(in_channels), operator.index(out_channels))
    kind = "cpu" if device is None else device.type
    chosen: Choice = _choose_as_constant(fields, batch, *channels, kind, dtype, training)
    return chosen


@run_as_constant
def _choose_as_constant(*arguments: Any) -> Choice:
    return _choose(*arguments, torch.are_deterministic_algorithms_enabled())


@lru_cache(maxsize=4096)
def _choose(
    fields: tuple[Any, ...],
    batch: int,
    in_channels: int,
    out_channels: int,
    kind: str,
    dtype: torch.dtype,
    training: bool,
    deterministic: bool,  # part of the key: it decides which constants are used
) -> Choice:
    call = Call(ConvGeometry(*fields), batch, in_channels, out_channels, training)
    by_kernels = kind == "cpu" and native.suits(call.geometry, dtype)
    if call.geometry.band.is_full and not by_kernels:
        return Choice("lowpass", "full band: torch's convolution")
    if kind == "cpu":
        low_passed = native_lowpass.suits(call.geometry, dtype)
        ways = (
            "matmul kernels" if by_kernels else "matmul",
            "lowpass kernels" if low_passed else "lowpass",
        )
        return _fastest(call, *ways)
    return _fewest_multiplications(call)


def _fastest(call: Call, by_frequency: str, by_low_pass: str) -> Choice:
    own, lowpass, plain = (seconds(way, call) for way in (by_frequency, by_low_pass, "torch"))
    reason = f"estimated {_milliseconds(own)} by frequency, "
    if call.geometry.band.is_full:  # where "lowpass" is torch's convolution
        lowpass = _FULL_BAND_MARGIN * plain
        reason += f"{_milliseconds(plain)} by torch's convolution"
    else:
        reason += (
            f"{_milliseconds(lowpass)} by low-pass; torch without a band {_milliseconds(plain)}"
        )
    return Choice("matmul" if own < lowpass else "lowpass", reason)


def _milliseconds(time: float) -> str:
    return f"{1e3 * time:.3g} ms"


def _fewest_multiplications(call: Call) -> Choice:
    """By the count; "triton" takes no part, since its kernels have not run on a GPU yet."""
    channels = (call.in_channels, call.out_channels)
    vendor = multiplications("lowpass", call.geometry, call.batch, *channels)
    own = multiplications("matmul", call.geometry, call.batch, *channels)
    lowpass = vendor.product + _MATMUL_COST * vendor.transforms
    if _MATMUL_COST * own.total >= lowpass:
        return Choice("lowpass", _COUNTED)
    return Choice("matmul", _COUNTED)
