"""Which algorithm runs: the one that was asked for, or for "auto" the cheapest by count."""

import operator
from functools import lru_cache
from typing import Any

import torch

from passband.ops.band_limited_conv.cost import multiplications
from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.triton import obstacle, suits
from passband.ops.tracing import run_as_constant

ALGORITHMS = ("auto", "fft", "lowpass", "matmul", "triton")

# In training, a multiplication of our transforms and batched products costs this many of the
# vendor's convolution, which keeps its operands in registers (two AVX-512 cores, float32).
_MATMUL_COST = 5.0

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


def select_algorithm(
    algorithm: str,
    geometry: ConvGeometry,
    batch: int,
    in_channels: int,
    out_channels: int,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> str:
    """The algorithm that runs, from shapes alone; compiled or exported, from those but the batch.

    On a CUDA device "triton" takes the place of "matmul" for the shapes that its kernels are made
    for, but not in float64, which is for checking rather than for speed. That rule is not measured.

    Examples:
        >>> from passband.ops.band_limited_conv.geometry import conv_geometry
        >>> narrow = conv_geometry((32, 32), (3, 3), padding=1, compression=0.85)
        >>> select_algorithm("auto", narrow, 32, 64, 64)
        'matmul'
        >>> select_algorithm("auto", conv_geometry((32, 32), (3, 3), padding=1), 32, 64, 64)
        'lowpass'
    """
    if algorithm != "auto":
        return algorithm
    fields = (
        geometry.size, geometry.padding, geometry.kernel, geometry.stride, geometry.dilation,
        geometry.groups, geometry.grid, geometry.kept,
    )  # fmt: skip
    # traced once and run at any batch, so it must not depend on it then
    batch = _TRACED_BATCH if torch.compiler.is_compiling() else batch
    channels = (operator.index(in_channels), operator.index(out_channels))
    choice: str = _cached_choice(fields, batch, *channels)
    on_gpu = device is not None and device.type == "cuda" and dtype != torch.float64
    if choice == "matmul" and on_gpu and suits(geometry, *channels) and obstacle("cuda") is None:
        return "triton"
    return choice


@lru_cache(maxsize=4096)
def _choose(fields: tuple[Any, ...], batch: int, in_channels: int, out_channels: int) -> str:
    geometry = ConvGeometry(*fields)
    if geometry.band.is_full:
        return "lowpass"  # which is then torch's convolution itself
    shape = (geometry, batch, in_channels, out_channels)
    vendor = multiplications("lowpass", *shape)
    own = multiplications("matmul", *shape)
    lowpass_cost = vendor.product + _MATMUL_COST * vendor.transforms
    return "matmul" if _MATMUL_COST * own.total < lowpass_cost else "lowpass"


@run_as_constant
def _cached_choice(*arguments: Any) -> str:
    return _choose(*arguments)
