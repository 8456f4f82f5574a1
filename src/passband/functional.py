"""Stateless band-limited convolutions with the arguments of torch.nn.functional.

Definition (mathematics: Dziedzic et al., ICML 2019, section 3), with M the mask of the band on a
grid of N points per axis, N0 the padded map and K the span of the filter:

    Y = irfft(rfft(pad(x)) M conj(rfft(w, N)) M),    output = Y[.., : N0 - K + 1 : stride]

At full band this is torch's own convolution.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from passband.ops.band_limited_conv.geometry import ConvGeometry, conv_geometry
from passband.ops.band_limited_conv.layout import product_dtype
from passband.ops.band_limited_conv.lowpass import convolve_full_band
from passband.ops.band_limited_conv.masked import masked_spectrum
from passband.ops.band_limited_conv.op import (
    band_limited_conv,
    band_limited_conv_plainly,
    evaluate,
    geometry_arguments,
)
from passband.ops.band_limited_conv.reference import band_limited_conv as reference_conv
from passband.ops.band_limited_conv.select import check_algorithm, select_algorithm
from passband.ops.tracing import (
    is_evaluated_eagerly,
    is_transformed,
    run_as_constant,
    run_uncompiled,
)
from passband.spectrum.band import Band, check_band_arguments
from passband.spectrum.energy import band_from_energy


def band_limited_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    compression: float | None = None,
    energy: float | None = None,
    band: int | Sequence[int] | None = None,
    fft_size: int | Sequence[int] | None = None,
    algorithm: str = "auto",
    energy_mode: str = "coarse",
) -> Tensor:
    """Band-limited convolution of series (B, C, L) or (C, L); see `band_limited_conv2d`.

    Examples:
        >>> x, w = torch.randn(4, 8, 270), torch.randn(16, 8, 5)
        >>> band_limited_conv1d(x, w, padding="same", compression=0.5).shape
        torch.Size([4, 16, 270])
    """
    return _band_limited_conv(
        1, input, weight, bias, stride, padding, dilation, groups,
        compression, energy, band, fft_size, algorithm, energy_mode,
    )  # fmt: skip


def band_limited_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    compression: float | None = None,
    energy: float | None = None,
    band: int | Sequence[int] | None = None,
    fft_size: int | Sequence[int] | None = None,
    algorithm: str = "auto",
    energy_mode: str = "coarse",
) -> Tensor:
    """Band-limited convolution of maps: the low frequencies of map and filter only.

    The definition is at the head of this module. At most one of `compression`, `energy` and `band`
    says how much is kept; none of them keeps everything, which is torch.nn.functional.conv2d.

    Args:
        input: Maps (B, C, H, W) or one map (C, H, W).
        weight: Filters (O, C / groups, kh, kw).
        bias: (O,), or None.
        stride: As in torch.nn.functional.conv2d; so are `padding` (zeros, also "same" and
            "valid"), `dilation` and `groups`.
        padding: Zeros on both sides per axis, "same" or "valid".
        dilation: Distance between the filter's taps.
        groups: Groups of channels that do not mix.
        compression: Fraction of the half-spectrum's coefficients to discard, 0 <= c < 1. The band
            whose realised fraction is nearest is taken.
        energy: Fraction of the batch's spectral energy to keep, 0 < e <= 1; the band then depends
            on the values, which torch.compile and export cannot follow.
        band: Half-spectrum coefficients kept per axis, 1 <= k <= N // 2 + 1.
        fft_size: Grid N per axis, at least the padded map, which is the default. The authors' code
            takes the next power of two of H + 2 padding + max(H_out, kh) - 1.
        algorithm: "auto", "fft" (the reference), "lowpass", "matmul" or "triton" (on CUDA devices).
            All compute the same function, to rounding.
        energy_mode: "coarse" adds whole shells of frequencies until the energy is reached, "fine"
            adds the last shell's coefficients one at a time; the latter is computed by "matmul"
            where "lowpass" is asked for, since its spectrum is no block.

    Returns:
        Maps (B, O, H_out, W_out), or (O, H_out, W_out) for one map.

    Raises:
        ValueError: A value or a shape is not allowed.
        TypeError: A type is not allowed.

    Source:
        Dziedzic, Paparrizos, Krishnan, Elmore, Franklin: Band-limited Training and Inference for
        Convolutional Neural Networks, ICML 2019, section 3.

    Examples:
        >>> x, w = torch.randn(2, 3, 32, 32), torch.randn(8, 3, 3, 3)
        >>> band_limited_conv2d(x, w, padding=1, compression=0.5).shape
        torch.Size([2, 8, 32, 32])
        >>> full = band_limited_conv2d(x, w, padding=1)
        >>> torch.equal(full, torch.nn.functional.conv2d(x, w, padding=1))
        True
    """
    return _band_limited_conv(
        2, input, weight, bias, stride, padding, dilation, groups,
        compression, energy, band, fft_size, algorithm, energy_mode,
    )  # fmt: skip


def band_limited_conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    compression: float | None = None,
    energy: float | None = None,
    band: int | Sequence[int] | None = None,
    fft_size: int | Sequence[int] | None = None,
    algorithm: str = "auto",
    energy_mode: str = "coarse",
) -> Tensor:
    """Band-limited convolution of volumes (B, C, D, H, W) or (C, D, H, W).

    See `band_limited_conv2d`.

    Examples:
        >>> x, w = torch.randn(1, 2, 6, 8, 8), torch.randn(4, 2, 3, 3, 3)
        >>> band_limited_conv3d(x, w, padding=1, compression=0.5).shape
        torch.Size([1, 4, 6, 8, 8])
    """
    return _band_limited_conv(
        3, input, weight, bias, stride, padding, dilation, groups,
        compression, energy, band, fft_size, algorithm, energy_mode,
    )  # fmt: skip


def _band_limited_conv(
    axes: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | str | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    compression: float | None,
    energy: float | None,
    band: int | Sequence[int] | None,
    fft_size: int | Sequence[int] | None,
    algorithm: str,
    energy_mode: str,
) -> Tensor:
    check_band_arguments(compression, energy, band, energy_mode)
    check_algorithm(algorithm)
    check_tensors(axes, input, weight, bias, groups)
    check_algorithm(algorithm, input.device)
    if input.dim() == axes + 1:
        batched = _band_limited_conv(
            axes, input.unsqueeze(0), weight, bias, stride, padding, dilation, groups,
            compression, energy, band, fft_size, algorithm, energy_mode,
        )  # fmt: skip
        return batched.squeeze(0)
    geometry = conv_geometry(
        input.shape[2:], weight.shape[2:], stride, padding, dilation, groups,
        compression=compression, band=band, fft_size=fft_size,
    )  # fmt: skip
    if energy is not None:
        return _convolve_by_energy(input, weight, bias, geometry, algorithm, energy, energy_mode)
    return convolve(input, weight, bias, geometry, algorithm)


@run_uncompiled(
    "energy chooses a band by the values of a batch; passband.calibrate fixes the bands"
)
def _convolve_by_energy(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    algorithm: str,
    energy: float,
    energy_mode: str,
) -> Tensor:
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"energy is {energy}, but a band that depends on values cannot be exported; fix the "
            "bands with passband.calibrate"
        )
    chosen = band_from_energy(input, geometry.grid, energy, energy_mode)
    geometry = replace(geometry, kept=chosen.band.kept)
    return convolve(input, weight, bias, geometry, algorithm, chosen.mask)


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    algorithm: str,
    mask: Tensor | None = None,
) -> Tensor:
    """The convolution of a batch whose arguments have been checked.

    Args:
        input: Maps (B, C, n1, ..).
        weight: Filters (O, C / groups, k1, ..).
        bias: (O,), or None.
        geometry: Static shapes and the band.
        algorithm: One that `select_algorithm` accepts.
        mask: Boolean half-spectrum, the part of the band to keep; None keeps the whole band.
    """
    training = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
    algorithm = select_algorithm(
        algorithm, geometry, input.shape[0], input.shape[1], weight.shape[0], input.device,
        product_dtype(weight), training,
    ).algorithm  # fmt: skip
    if algorithm == "fft":
        return _convolve_by_fft(input, weight, bias, geometry, mask)
    if algorithm == "lowpass" and mask is None and _is_full_band(geometry.grid, geometry.kept):
        return convolve_full_band(input, weight, bias, geometry)
    if mask is None and is_evaluated_eagerly(input, weight, bias):
        evaluated = evaluate(input, weight, bias, geometry, algorithm)
        if evaluated is not None:
            return evaluated
    operator = band_limited_conv_plainly if is_transformed() else band_limited_conv
    shapes = geometry_arguments(geometry)
    output: Tensor
    if mask is None:
        output, _ = operator(input, weight, bias, *shapes, algorithm, None, False)
    else:
        with torch.autocast(input.device.type, enabled=False):
            spectrum = masked_spectrum(input, geometry, mask)
        by_frequency = "triton" if algorithm == "triton" else "matmul"
        output, _ = operator(spectrum, weight, bias, *shapes, by_frequency, None, True)
    return output


@run_as_constant
def _is_full_band(grid: tuple[int, ...], kept: tuple[int, ...]) -> bool:
    return Band(grid, kept).is_full


@run_uncompiled("algorithm 'fft' computes with complex numbers")
def _convolve_by_fft(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    mask: Tensor | None,
) -> Tensor:
    return reference_conv(input, weight, bias, geometry, mask).to(product_dtype(weight))


def check_tensors(
    axes: int, input: Tensor, weight: Tensor, bias: Tensor | None, groups: int
) -> None:
    """Check the tensors of a convolution against each other.

    Raises:
        TypeError: They are not real floating tensors of one type; groups is not a whole number.
        ValueError: Their shapes do not fit.
    """
    for name, tensor in (("input", input), ("weight", weight), ("bias", bias)):
        if not isinstance(tensor, Tensor) and not (name == "bias" and tensor is None):
            raise TypeError(f"{name} is of type {type(tensor).__name__}, allowed are torch tensors")
    if isinstance(groups, bool) or not isinstance(groups, (int, torch.SymInt)):
        raise TypeError(f"groups must be a whole number, got {groups!r}")
    if not input.is_floating_point():
        raise TypeError(f"input is {input.dtype}, allowed are real floating types")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.device != input.device:
            raise ValueError(f"{name} is on {tensor.device}, but input is on {input.device}")
        if tensor.dtype != input.dtype and not (
            tensor.is_floating_point() and torch.is_autocast_enabled(input.device.type)
        ):
            raise TypeError(f"{name} is {tensor.dtype}, but input is {input.dtype}")
    if input.dim() not in (axes + 1, axes + 2):
        raise ValueError(
            f"input has shape {tuple(input.shape)}, allowed are {axes + 2} axes (batch, channels, "
            f"{axes} spatial) or {axes + 1} without the batch"
        )
    if weight.dim() != axes + 2:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, allowed are {axes + 2} axes (outputs, "
            f"inputs / groups, {axes} spatial)"
        )
    channels, outputs = input.shape[-axes - 1], weight.shape[0]
    if groups < 1 or outputs % groups:
        raise ValueError(
            f"groups is {groups}, allowed are divisors of the {outputs} output channels"
        )
    if channels != weight.shape[1] * groups:
        raise ValueError(
            f"input has {channels} channels, but weight of shape {tuple(weight.shape)} with groups "
            f"{groups} needs {weight.shape[1] * groups}"
        )
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise ValueError(f"bias has shape {tuple(bias.shape)}, allowed is ({outputs},)")
    if any(n == 0 for n in weight.shape):
        raise ValueError(f"weight has shape {tuple(weight.shape)}, allowed are sizes from 1")
