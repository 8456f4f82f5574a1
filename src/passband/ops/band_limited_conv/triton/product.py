"""The product per frequency, and the filters' gradient, as Triton kernels.

A spectrum is read and written as it lies, in real coefficients; complex numbers exist in registers
only, and so does the filters' spectrum, which is summed from the taps. See ../README.md.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.layout import stored_spectrum_dtype, transform_dtype
from passband.ops.band_limited_conv.triton.launch import launch, precision
from passband.ops.band_limited_conv.triton.product_kernels import (
    filter_gradient_kernel,
    multiply_kernel,
)
from passband.spectrum.dft import mirrored_phases

# The filters' gradient is split over frequencies until there are as many programs: a few for each
# multiprocessor of a large GPU.
_PROGRAMS = 512


@dataclass(frozen=True)
class _Frequencies:
    """How the coefficients of a band of one or two axes are numbered."""

    cosines_u: int
    cosines_v: int
    kept_u: int
    kept_v: int

    @property
    def count(self) -> int:
        return self.cosines_u * self.cosines_v


def multiply(
    spectrum: Tensor, weight: Tensor, geometry: ConvGeometry, dtype: torch.dtype, adjoint: bool
) -> Tensor:
    """Product of a spectrum (frequencies, B, C) with the filters' conjugate spectrum.

    Args:
        spectrum: Of the input; of the output's gradient if `adjoint`.
        weight: Filters (O, C / groups, k1, ..).
        geometry: Static shapes and the band, of one axis or two.
        dtype: Type that numbers are multiplied in.
        adjoint: Whether to take the adjoint of the product: from outputs to inputs.

    Returns:
        Tensor (frequencies, B, O), or (frequencies, B, C) if `adjoint`.
    """
    frequencies, groups = _frequencies(geometry), geometry.groups
    taps = _taps(weight, dtype)
    tap_count, inputs, outputs = taps.shape[0], taps.shape[1], taps.shape[2] // groups
    tap_strides = taps.stride()  # tap, input, output
    batch = spectrum.shape[1]
    summed, results = (outputs, inputs) if adjoint else (inputs, outputs)
    strides = (tap_strides[2], tap_strides[1]) if adjoint else tap_strides[1:]
    shape = (spectrum.shape[0], batch, groups * results)
    product = spectrum.new_empty(shape, dtype=stored_spectrum_dtype(dtype))

    def grid(meta: dict[str, Any]) -> tuple[int]:
        tiles = triton.cdiv(batch, meta["BLOCK_B"]) * triton.cdiv(results, meta["BLOCK_N"])
        return (tiles * frequencies.count * groups,)

    launch(
        multiply_kernel, grid, product, spectrum.contiguous(), taps,
        _phases(geometry, dtype, spectrum),
        batch, triton.next_power_of_2(batch), summed, results, groups, tap_count,
        frequencies.cosines_u, frequencies.cosines_v, frequencies.kept_u, frequencies.kept_v,
        tap_strides[0], *strides, outputs * tap_strides[2],
        DTYPE=_TYPES[dtype], ADJOINT=adjoint, MIRRORED=geometry.axes == 2,
        PRECISION=precision(dtype),
    )  # fmt: skip
    return product


def filter_gradient(
    spectrum: Tensor, grad: Tensor, weight: Tensor, geometry: ConvGeometry, dtype: torch.dtype
) -> Tensor:
    """Gradient of the filters, from the spectra of input and output's gradient.

    Its sums over frequencies are taken in parts, one for each of several programs, and these are
    added by torch, so that the order of summation is always the same.
    """
    frequencies, groups = _frequencies(geometry), geometry.groups
    inputs, outputs = weight.shape[1], weight.shape[0] // groups
    tap_count, batch = weight[0, 0].numel(), spectrum.shape[1]
    phases = _phases(geometry, dtype, spectrum)
    tiles = triton.cdiv(inputs, 16) * triton.cdiv(outputs, 32) * triton.cdiv(tap_count, 16)
    parts = min(frequencies.count, triton.cdiv(_PROGRAMS, tiles * groups))
    partial = phases.new_empty(parts, tap_count, inputs, groups * outputs)

    def grid(meta: dict[str, Any]) -> tuple[int]:
        tiles = triton.cdiv(inputs, meta["BLOCK_C"]) * triton.cdiv(outputs, meta["BLOCK_O"])
        return (tiles * triton.cdiv(tap_count, meta["BLOCK_T"]) * groups * parts,)

    launch(
        filter_gradient_kernel, grid, partial, spectrum.contiguous(), grad.contiguous(), phases,
        batch, inputs, outputs, groups, tap_count, parts,
        frequencies.cosines_u, frequencies.cosines_v, frequencies.kept_u, frequencies.kept_v,
        DTYPE=_TYPES[dtype], MIRRORED=geometry.axes == 2, PRECISION=precision(dtype),
    )  # fmt: skip
    taps = partial.sum(0)
    return taps.permute(2, 1, 0).reshape(weight.shape)


_TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


def _frequencies(geometry: ConvGeometry) -> _Frequencies:
    band = geometry.band
    cosines, kept = (1, *band.cosines)[-2:], (1, *band.real_sizes)[-2:]
    return _Frequencies(*cosines, *kept)


def _taps(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Filters as (taps, C / groups, O), the outputs innermost in memory."""
    return weight.flatten(2).permute(2, 1, 0).to(dtype).contiguous()


def _phases(geometry: ConvGeometry, dtype: torch.dtype, like: Tensor) -> Tensor:
    return mirrored_phases(
        geometry.band, geometry.kernel, geometry.dilation, transform_dtype(dtype), like.device
    )
