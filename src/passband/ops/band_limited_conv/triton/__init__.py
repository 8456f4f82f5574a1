"""Band-limited convolution by Triton kernels, on CUDA devices; see ../README.md.

The spectrum is that of `matmul`, (frequencies, B, C), and so is the product per frequency; what
differs is that every step reads and writes each number once. Maps of three axes are left to
`matmul` altogether. Nothing here imports Triton before a kernel is asked for.
"""

import importlib
import math
from typing import Any

import torch
from torch import Tensor

from passband.ops.band_limited_conv import matmul
from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.layout import stored_spectrum_dtype, transform_dtype
from passband.ops.band_limited_conv.matmul import spectrum_shape as spectrum_shape
from passband.ops.tracing import run_as_constant
from passband.spectrum.constants import cached_constant

_DENSE_POINTS = 256  # points of a map up to which both its axes are transformed by one matrix


@run_as_constant
def obstacle(device_type: str | None = None) -> str | None:
    """Why the kernels cannot run here, or on tensors of a kind of device; None where they can.

    Examples:
        >>> obstacle("mps")
        '...'
    """
    try:
        interpreted = _kernels("launch").INTERPRETED
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if not (interpreted or torch.cuda.is_available()):
        return "there is no CUDA device"
    allowed = ("cuda", "cpu", "meta") if interpreted else ("cuda", "meta")
    if device_type not in (None, *allowed):
        return f"the tensors are on {device_type}, and its kernels run on CUDA devices"
    return None


def analyze(maps: Tensor, geometry: ConvGeometry) -> Tensor:
    """Truncated spectrum z (frequencies, B, C) of maps (B, C, n1, ..)."""
    if geometry.axes == 3:
        return matmul.analyze(maps, geometry)
    return _to_spectrum(maps, geometry, output=False)


def analyze_adjoint(
    spectrum: Tensor,
    geometry: ConvGeometry,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Adjoint of `analyze`: maps (B, C, n1, ..) from a spectrum (frequencies, B, C)."""
    if geometry.axes == 3:
        return matmul.analyze_adjoint(spectrum, geometry)
    return _to_maps(spectrum, None, geometry, spectrum.dtype, memory_format, output=False)


def forward(
    spectrum: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    dtype: torch.dtype,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Output maps (B, O, m1, ..) from the spectrum of the input."""
    if geometry.axes == 3:
        return matmul.forward(spectrum, weight, bias, geometry, dtype)
    product = _kernels("product").multiply(spectrum, weight, geometry, dtype, adjoint=False)
    return _to_maps(product, bias, geometry, dtype, memory_format, output=True)


def backward(
    grad: Tensor,
    spectrum: Tensor,
    weight: Tensor,
    geometry: ConvGeometry,
    dtype: torch.dtype,
    needs_spectrum: bool,
    needs_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the spectrum of the input, and of the filters, from that of the output."""
    if geometry.axes == 3:
        return matmul.backward(
            grad, spectrum, weight, geometry, dtype, needs_spectrum, needs_weight
        )
    product = _kernels("product")
    grad_output = _to_spectrum(grad, geometry, output=True)
    grad_spectrum = grad_weight = None
    if needs_spectrum:
        grad_spectrum = product.multiply(grad_output, weight, geometry, dtype, adjoint=True)
    if needs_weight:
        grad_weight = product.filter_gradient(spectrum, grad_output, weight, geometry, dtype)
    return grad_spectrum, grad_weight


def _kernels(name: str) -> Any:
    """A module of kernels, which imports Triton."""
    return importlib.import_module(f"{__name__}.{name}")


def _to_spectrum(maps: Tensor, geometry: ConvGeometry, output: bool) -> Tensor:
    """Spectrum of maps of the input's points, or of the output's."""
    transforms = _kernels("transforms")
    if is_dense(_points(geometry, output)):
        matrix = _dense_basis(geometry, output, transform_dtype(maps.dtype), maps.device)
        shape = (matrix.shape[1], *maps.shape[:2])
        spectrum = maps.new_empty(shape, dtype=stored_spectrum_dtype(maps.dtype))
        transforms.apply_matrix(spectrum, _positions_first(maps), matrix.T, None)
    else:
        spectrum = transforms.analyze(maps, _bases(maps, geometry, output))
    return spectrum


def _to_maps(
    spectrum: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    output: bool,
) -> Tensor:
    """Maps of the input's points, or of the output's."""
    transforms = _kernels("transforms")
    spectrum = spectrum.contiguous()
    maps = torch.empty(
        (*spectrum.shape[1:], *_points(geometry, output)),
        dtype=dtype,
        device=spectrum.device,
        memory_format=memory_format,
    )
    if is_dense(_points(geometry, output)):
        matrix = _dense_basis(geometry, output, transform_dtype(maps.dtype), maps.device)
        transforms.apply_matrix(_positions_first(maps), spectrum, matrix, bias)
    else:
        transforms.synthesize(maps, spectrum, _bases(maps, geometry, output), bias)
    return maps


def is_dense(size: tuple[int, ...]) -> bool:
    """Whether maps of `size` points are transformed by one matrix: one axis, or two short ones."""
    return len(size) == 1 or math.prod(size) <= _DENSE_POINTS


def _points(geometry: ConvGeometry, output: bool) -> tuple[int, ...]:
    return geometry.output_size if output else geometry.size


def _positions_first(maps: Tensor) -> Tensor:
    """(B, C, n1, ..) as (points, B, C): a view of a map in either of torch's memory orders."""
    return maps.flatten(2).permute(2, 0, 1)


def _bases(like: Tensor, geometry: ConvGeometry, output: bool) -> Any:
    """Q per axis at the points of the unpadded map, or of the output that the stride keeps."""
    bases = matmul._output_bases if output else matmul._input_bases
    return bases(like, geometry)


@cached_constant
def _dense_basis(
    geometry: ConvGeometry, output: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The bases of all axes as one matrix (points, frequencies)."""
    like = torch.empty(0, dtype=dtype, device=device)
    rows, *columns = _bases(like, geometry, output)
    return torch.kron(rows, columns[0]) if columns else rows.contiguous()
