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
from passband.ops.band_limited_conv.triton.launch import INTERPRETED, blocks, launch, precision, tuned
from passband.spectrum.dft import mirrored_phases

# Triton's interpreter multiplies the bits of bfloat16 numbers as if they were whole numbers.
_WIDEN = tl.constexpr(INTERPRETED)

_PROGRAMS = 512
"""Programs that the filters' gradient is split into at least, over frequencies: a few for each
multiprocessor of a large GPU."""


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
        _multiply_kernel, grid, product, spectrum.contiguous(), taps, _phases(geometry, dtype, spectrum),
        batch, triton.next_power_of_2(batch), summed, results, groups, tap_count,
        frequencies.cosines_u, frequencies.cosines_v, frequencies.kept_u, frequencies.kept_v,
        tap_strides[0], *strides, outputs * tap_strides[2],
        DTYPE=_TYPES[dtype], ADJOINT=adjoint, MIRRORED=geometry.axes == 2, PRECISION=precision(dtype),
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
    tiles = groups * triton.cdiv(inputs, 32) * triton.cdiv(outputs, 32)
    parts = min(frequencies.count, triton.cdiv(_PROGRAMS, tiles))
    partial = phases.new_empty(parts, tap_count, inputs, groups * outputs)

    def grid(meta: dict[str, Any]) -> tuple[int]:
        tiles = triton.cdiv(inputs, meta["BLOCK_C"]) * triton.cdiv(outputs, meta["BLOCK_O"])
        return (tiles * triton.cdiv(tap_count, meta["BLOCK_T"]) * groups * parts,)

    launch(
        _filter_gradient_kernel, grid, partial, spectrum.contiguous(), grad.contiguous(), phases,
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


@triton.jit
def _row(
    u, v, cosines_u, cosines_v, kept_u, kept_v, SINE_U: tl.constexpr, SINE_V: tl.constexpr
):  # fmt: skip
    """The number of a coefficient, and 1, or 0 where there is none: a frequency without a sine."""
    row_u, row_v = u, v
    exists = 1
    if SINE_U:
        row_u = u + cosines_u - 1
        exists *= ((u > 0) & (row_u < kept_u)).to(tl.int32)
    if SINE_V:
        row_v = v + cosines_v - 1
        exists *= ((v > 0) & (row_v < kept_v)).to(tl.int32)
    return (row_u * kept_v + row_v).to(tl.int64), exists


@triton.jit
def _load(
    spectrum, channel, channels, inside, row_stride, u, v, cosines_u, cosines_v, kept_u, kept_v,
    SINE_U: tl.constexpr, SINE_V: tl.constexpr,
):  # fmt: skip
    row, exists = _row(u, v, cosines_u, cosines_v, kept_u, kept_v, SINE_U, SINE_V)
    return tl.load(spectrum + row * row_stride, inside & (channel < channels * exists), 0.0)


@triton.jit
def _store(
    product, value, channel, channels, inside, row_stride, u, v,
    cosines_u, cosines_v, kept_u, kept_v, SINE_U: tl.constexpr, SINE_V: tl.constexpr,
):  # fmt: skip
    row, exists = _row(u, v, cosines_u, cosines_v, kept_u, kept_v, SINE_U, SINE_V)
    pointers = product + row * row_stride
    tl.store(
        pointers, value.to(product.dtype.element_ty), inside & (channel < channels * exists)
    )


@triton.jit
def _pack(
    spectrum, channel, channels, inside, row_stride, u, v, cosines_u, cosines_v, kept_u, kept_v,
    real: tl.constexpr, MIRRORED: tl.constexpr,
):  # fmt: skip
    """Complex coefficients at (u, v) and (-u, v), up to a factor, from the real ones."""
    cc = _load(spectrum, channel, channels, inside, row_stride, u, v,
               cosines_u, cosines_v, kept_u, kept_v, False, False).to(real)  # fmt: skip
    cs = _load(spectrum, channel, channels, inside, row_stride, u, v,
               cosines_u, cosines_v, kept_u, kept_v, False, True).to(real)  # fmt: skip
    if MIRRORED:
        sc = _load(spectrum, channel, channels, inside, row_stride, u, v,
                   cosines_u, cosines_v, kept_u, kept_v, True, False).to(real)  # fmt: skip
        ss = _load(spectrum, channel, channels, inside, row_stride, u, v,
                   cosines_u, cosines_v, kept_u, kept_v, True, True).to(real)  # fmt: skip
        return cc - ss, -(cs + sc), cc + ss, sc - cs
    else:
        return cc, -cs, cc, -cs


@tuned(
    ["batch_class", "summed", "results", "tap_count", "cosines_u", "cosines_v"],
    blocks(8, 2, BLOCK_B=64, BLOCK_N=64, BLOCK_K=32),
    blocks(4, 2, BLOCK_B=32, BLOCK_N=64, BLOCK_K=32),
    blocks(8, 2, BLOCK_B=128, BLOCK_N=64, BLOCK_K=16),
    blocks(4, 2, BLOCK_B=64, BLOCK_N=32, BLOCK_K=32),
    blocks(4, 2, BLOCK_B=32, BLOCK_N=32, BLOCK_K=16),
)
@triton.jit
def _multiply_kernel(
    product, spectrum, taps, phases,
    batch, batch_class, summed, results, groups, tap_count,
    cosines_u, cosines_v, kept_u, kept_v,
    tap_stride, summed_stride, result_stride, group_stride,
    DTYPE: tl.constexpr, ADJOINT: tl.constexpr, MIRRORED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One frequency (u, v) and its mirror image, for a block of images and of output channels.

    Four real products make a complex one: three would add operands before they are rounded, and
    the tensor cores are not what this kernel waits for. `batch_class` is for the tuning alone.
    """
    tile = tl.program_id(0)
    tiles_n = tl.cdiv(results, BLOCK_N)
    n = (tile % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    tile = tile // tiles_n
    tiles_b = tl.cdiv(batch, BLOCK_B)
    b = (tile % tiles_b) * BLOCK_B + tl.arange(0, BLOCK_B)
    tile = tile // tiles_b
    count = cosines_u * cosines_v
    frequency = tile % count
    u = frequency // cosines_v
    v = frequency % cosines_v
    group = tile // count

    real = phases.dtype.element_ty
    parts: tl.constexpr = 4 if MIRRORED else 2
    phases += frequency * tap_count * parts
    sign = -1.0 if ADJOINT else 1.0
    spectrum += b.to(tl.int64)[:, None] * (groups * summed) + group * summed
    taps += group * group_stride + n[None, :] * result_stride
    real_sum = tl.zeros((BLOCK_B, BLOCK_N), real)
    imag_sum = tl.zeros((BLOCK_B, BLOCK_N), real)
    if MIRRORED:
        mirrored_real_sum = tl.zeros((BLOCK_B, BLOCK_N), real)
        mirrored_imag_sum = tl.zeros((BLOCK_B, BLOCK_N), real)
    for first_k in range(0, summed, BLOCK_K):
        k = first_k + tl.arange(0, BLOCK_K)
        inside = (k < summed)[:, None] & (n < results)[None, :]
        filter_real = tl.zeros((BLOCK_K, BLOCK_N), real)
        filter_imag = tl.zeros((BLOCK_K, BLOCK_N), real)
        if MIRRORED:
            mirrored_filter_real = tl.zeros((BLOCK_K, BLOCK_N), real)
            mirrored_filter_imag = tl.zeros((BLOCK_K, BLOCK_N), real)
        for tap in range(0, tap_count):
            pointers = taps + tap * tap_stride + k[:, None] * summed_stride
            values = tl.load(pointers, inside, 0.0).to(real)
            filter_real += values * tl.load(phases + tap * parts)
            filter_imag += values * (sign * tl.load(phases + tap * parts + 1))
            if MIRRORED:
                mirrored_filter_real += values * tl.load(phases + tap * parts + 2)
                mirrored_filter_imag += values * (sign * tl.load(phases + tap * parts + 3))
        x_real, x_imag, mirrored_x_real, mirrored_x_imag = _pack(
            spectrum + k[None, :], k[None, :], summed, (b < batch)[:, None],
            batch * groups * summed, u, v,
            cosines_u, cosines_v, kept_u, kept_v, real, MIRRORED,
        )  # fmt: skip
        real_sum, imag_sum = _multiply_add(
            x_real, x_imag, filter_real, filter_imag,
            real_sum, imag_sum, DTYPE, PRECISION,
        )  # fmt: skip
        if MIRRORED:
            mirrored_real_sum, mirrored_imag_sum = _multiply_add(
                mirrored_x_real, mirrored_x_imag,
                mirrored_filter_real, mirrored_filter_imag,
                mirrored_real_sum, mirrored_imag_sum, DTYPE, PRECISION,
            )  # fmt: skip

    row_stride = batch * groups * results
    product += b.to(tl.int64)[:, None] * (groups * results) + group * results + n[None, :]
    n, inside = n[None, :], (b < batch)[:, None]
    if MIRRORED:
        _store(product, (mirrored_real_sum + real_sum) * 0.5, n, results, inside, row_stride, u, v,
               cosines_u, cosines_v, kept_u, kept_v, False, False)  # fmt: skip
        _store(product, (mirrored_imag_sum + imag_sum) * -0.5, n, results, inside, row_stride, u, v,
               cosines_u, cosines_v, kept_u, kept_v, False, True)  # fmt: skip
        _store(product, (mirrored_imag_sum - imag_sum) * 0.5, n, results, inside, row_stride, u, v,
               cosines_u, cosines_v, kept_u, kept_v, True, False)  # fmt: skip
        _store(product, (mirrored_real_sum - real_sum) * 0.5, n, results, inside, row_stride, u, v,
               cosines_u, cosines_v, kept_u, kept_v, True, True)  # fmt: skip
    else:
        _store(product, real_sum, n, results, inside, row_stride, u, v,
               cosines_u, cosines_v, kept_u, kept_v, False, False)  # fmt: skip
        _store(product, -imag_sum, n, results, inside, row_stride, u, v,
               cosines_u, cosines_v, kept_u, kept_v, False, True)  # fmt: skip


@triton.jit
def _multiply_add(
    x_real, x_imag, y_real, y_imag, real_sum, imag_sum, DTYPE: tl.constexpr, PRECISION: tl.constexpr
):
    """(real_sum, imag_sum) + x y, of complex matrices in DTYPE."""
    x_real, x_imag = _rounded(x_real, DTYPE), _rounded(x_imag, DTYPE)
    y_real, y_imag = _rounded(y_real, DTYPE), _rounded(y_imag, DTYPE)
    real_sum = tl.dot(x_real, y_real, real_sum, input_precision=PRECISION)
    real_sum = tl.dot(-x_imag, y_imag, real_sum, input_precision=PRECISION)
    imag_sum = tl.dot(x_real, y_imag, imag_sum, input_precision=PRECISION)
    imag_sum = tl.dot(x_imag, y_real, imag_sum, input_precision=PRECISION)
    return real_sum, imag_sum


@triton.jit
def _rounded(values, DTYPE: tl.constexpr):
    if _WIDEN and DTYPE == tl.bfloat16:
        return values.to(DTYPE).to(tl.float32)
    else:
        return values.to(DTYPE)


@tuned(
    ["inputs", "outputs", "tap_count", "parts", "cosines_u", "cosines_v"],
    blocks(4, 2, BLOCK_T=16, BLOCK_C=16, BLOCK_O=32, BLOCK_B=32),
    blocks(8, 2, BLOCK_T=16, BLOCK_C=32, BLOCK_O=32, BLOCK_B=16),
    blocks(8, 2, BLOCK_T=16, BLOCK_C=16, BLOCK_O=32, BLOCK_B=64),
    blocks(4, 2, BLOCK_T=16, BLOCK_C=16, BLOCK_O=16, BLOCK_B=16),
)
@triton.jit
def _filter_gradient_kernel(
    partial, spectrum, grad, phases,
    batch, inputs, outputs, groups, tap_count, parts,
    cosines_u, cosines_v, kept_u, kept_v,
    DTYPE: tl.constexpr, MIRRORED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """A block of taps, inputs and outputs, summed over every `parts`-th frequency.

    The gradient of the filters' spectrum at a frequency lives in registers, and is added to that of
    each tap at once.
    """
    tile = tl.program_id(0)
    tiles_o = tl.cdiv(outputs, BLOCK_O)
    o = (tile % tiles_o) * BLOCK_O + tl.arange(0, BLOCK_O)
    tile = tile // tiles_o
    tiles_c = tl.cdiv(inputs, BLOCK_C)
    c = (tile % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    tile = tile // tiles_c
    tiles_t = tl.cdiv(tap_count, BLOCK_T)
    t = (tile % tiles_t) * BLOCK_T + tl.arange(0, BLOCK_T)
    tile = tile // tiles_t
    group = tile % groups
    part = tile // groups

    real = phases.dtype.element_ty
    scale: tl.constexpr = 0.5 if MIRRORED else 1.0
    numbers: tl.constexpr = 4 if MIRRORED else 2
    spectrum += group * inputs + c[:, None]
    grad += group * outputs + o[None, :]
    total = tl.zeros((BLOCK_T, BLOCK_C, BLOCK_O), real)
    for frequency in range(part, cosines_u * cosines_v, parts):
        u = frequency // cosines_v
        v = frequency % cosines_v
        real_sum = tl.zeros((BLOCK_C, BLOCK_O), real)
        imag_sum = tl.zeros((BLOCK_C, BLOCK_O), real)
        if MIRRORED:
            mirrored_real_sum = tl.zeros((BLOCK_C, BLOCK_O), real)
            mirrored_imag_sum = tl.zeros((BLOCK_C, BLOCK_O), real)
        for first_b in range(0, batch, BLOCK_B):
            b = first_b + tl.arange(0, BLOCK_B)
            x_real, x_imag, mirrored_x_real, mirrored_x_imag = _pack(
                spectrum + b.to(tl.int64)[None, :] * (groups * inputs),
                c[:, None], inputs, (b < batch)[None, :],
                batch * groups * inputs, u, v,
                cosines_u, cosines_v, kept_u, kept_v, real, MIRRORED,
            )  # fmt: skip
            g_real, g_imag, mirrored_g_real, mirrored_g_imag = _pack(
                grad + b.to(tl.int64)[:, None] * (groups * outputs),
                o[None, :], outputs, (b < batch)[:, None],
                batch * groups * outputs, u, v,
                cosines_u, cosines_v, kept_u, kept_v, real, MIRRORED,
            )  # fmt: skip
            real_sum, imag_sum = _multiply_add(
                x_real, -x_imag, g_real, g_imag,
                real_sum, imag_sum, DTYPE, PRECISION,
            )  # fmt: skip
            if MIRRORED:
                mirrored_real_sum, mirrored_imag_sum = _multiply_add(
                    mirrored_x_real, -mirrored_x_imag,
                    mirrored_g_real, mirrored_g_imag,
                    mirrored_real_sum, mirrored_imag_sum, DTYPE, PRECISION,
                )  # fmt: skip
        pointers = phases + (frequency * tap_count + t) * numbers
        known = t < tap_count
        total += _outer(tl.load(pointers, known, 0.0) * scale, real_sum)
        total += _outer(tl.load(pointers + 1, known, 0.0) * scale, imag_sum)
        if MIRRORED:
            total += _outer(tl.load(pointers + 2, known, 0.0) * scale, mirrored_real_sum)
            total += _outer(tl.load(pointers + 3, known, 0.0) * scale, mirrored_imag_sum)
    element = (part * tap_count + t).to(tl.int64)[:, None, None] * inputs + c[None, :, None]
    inside = (t < tap_count)[:, None, None] & (c < inputs)[None, :, None]
    tl.store(
        partial + element * (groups * outputs) + group * outputs + o[None, None, :],
        total,
        inside & (o < outputs)[None, None, :],
    )


@triton.jit
def _outer(factors, matrix):
    return factors[:, None, None] * matrix[None, :, :]
