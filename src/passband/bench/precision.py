"""Errors of every algorithm and floating type against the reference in float64."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from passband.bench.layers import Row
from passband.functional import convolve
from passband.ops.band_limited_conv.geometry import ConvGeometry, conv_geometry
from passband.ops.band_limited_conv.reference import band_limited_conv as reference_conv

ALGORITHMS = ("fft", "lowpass", "matmul")

_Convolution: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Numbers:
    """How numbers are held: the type of the tensors, and the type of autocast around the call."""

    name: str
    dtype: torch.dtype
    autocast: torch.dtype | None = None


NUMBERS = (
    Numbers("float64", torch.float64),
    Numbers("float32", torch.float32),
    Numbers("bfloat16 autocast", torch.float32, torch.bfloat16),
    Numbers("float16 autocast", torch.float32, torch.float16),
    Numbers("bfloat16", torch.bfloat16),
    Numbers("float16", torch.float16),
)

# (batch, in_channels, out_channels, points per axis, kernel)
_CASES: tuple[tuple[int, int, int, tuple[int, ...], int], ...] = (
    (4, 32, 32, (32, 32), 3),
    (4, 64, 64, (14, 14), 3),
    (4, 128, 64, (7, 7), 5),
    (4, 16, 16, (28, 31), 7),
    (8, 32, 32, (270,), 5),
)


def precision_rows(quick: bool = False) -> Iterator[Row]:
    """Relative norms ||a - b|| / ||b|| of the output and both gradients, a row each.

    The reference computes in float64 on the same numbers, those of the floating type. torch's
    convolution stands beside it, with nothing discarded, against itself in float64. Inputs are
    normal random numbers of a fixed seed; filters are scaled so that outputs are about as large.

    Examples:
        >>> rows = list(precision_rows(quick=True))
        >>> {row["algorithm"]: row["output"] for row in rows}["matmul"] < 1e-3  # in float16
        True
    """
    for seed, (batch, inputs, outputs, size, kernel) in enumerate(_CASES[-1:] if quick else _CASES):
        for compression in (0.0, 0.5, 0.85):
            geometry = conv_geometry(
                size, (kernel,) * len(size), padding=kernel // 2, compression=compression
            )
            generator = torch.Generator().manual_seed(seed)
            shapes = (
                (batch, inputs, *size),
                (outputs, inputs, *geometry.kernel),
                (batch, outputs, *geometry.output_size),
            )
            tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
            tensors[1] /= tensors[1][0].numel() ** 0.5
            names = ALGORITHMS if compression else ("torch", *ALGORITHMS)
            for algorithm in names:
                for numbers in NUMBERS:
                    yield {
                        "algorithm": algorithm,
                        "numbers": numbers.name,
                        "batch": batch,
                        "in_channels": inputs,
                        "out_channels": outputs,
                        "map": "x".join(map(str, size)),
                        "kernel": kernel,
                        "compression": compression,
                        **_errors(algorithm, numbers, geometry, tensors),
                    }


def _errors(algorithm: str, numbers: Numbers, geometry: ConvGeometry, tensors: list[Tensor]) -> Row:
    rounded = [tensor.to(numbers.dtype) for tensor in tensors]
    exact = [tensor.double() for tensor in rounded]
    convolution = _convolution(algorithm, geometry)
    names = ("output", "input_gradient", "weight_gradient")
    try:
        computed = _outputs(convolution, rounded, numbers.autocast)
    except RuntimeError as error:  # torch has no such operation in this type
        return {**dict.fromkeys(names, ""), "note": str(error).partition("\n")[0]}
    expected = _outputs(_convolution("torch" if algorithm == "torch" else "", geometry), exact)
    errors = [
        ((a.double() - b).norm() / b.norm()).item() for a, b in zip(computed, expected, strict=True)
    ]
    return {**{n: float(f"{e:.2g}") for n, e in zip(names, errors, strict=True)}, "note": ""}


def _convolution(algorithm: str, geometry: ConvGeometry) -> _Convolution:
    """The convolution of torch, one of ours, or with no name the reference."""
    if algorithm == "torch":
        native = {1: F.conv1d, 2: F.conv2d}[geometry.axes]
        return lambda x, w: native(x, w, padding=[before for before, _ in geometry.padding])
    if not algorithm:
        return lambda x, w: reference_conv(x, w, None, geometry)
    return lambda x, w: convolve(x, w, None, geometry, algorithm)


def _outputs(
    convolution: _Convolution, tensors: list[Tensor], autocast: torch.dtype | None = None
) -> tuple[Tensor, ...]:
    """The output and the gradients of input and filters."""
    maps, filters = (tensor.detach().requires_grad_() for tensor in tensors[:2])
    with torch.autocast("cpu", autocast) if autocast is not None else nullcontext():
        output = convolution(maps, filters)
    gradients = torch.autograd.grad(output, (maps, filters), tensors[2].to(output.dtype))
    return (output.detach(), *gradients)
