"""Band-limited convolution as real matrix products only, frequency by frequency.

1. analyze: z = Q^T x per axis, laid out (frequencies, B, C): every transform is a large product.
2. pack: one complex coefficient X per conjugate pair.
3. product: Y = X conj(K) by three real products (Gauss) instead of four. With L = conj(K):
   P1 = (Xr + Xi) Lr, P2 = Xr (Li - Lr), P3 = Xi (Lr + Li); Yr = P1 - P3, Yi = P1 + P2.
   The combinations of L are folded into the matrix that transforms the filter.
4. unpack and synthesize, at the output points that the stride keeps.

Steps 2 and 4 are orthonormal, so every adjoint is the transpose of a step; see README.md. What is
kept for the backward pass is z. Transforms are computed in float32 or float64, the product in
`dtype`.
"""

import math

import torch
from torch import Tensor

from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.layout import transform_dtype
from passband.spectrum.band import Band
from passband.spectrum.constants import cached_constant
from passband.spectrum.dft import filter_transform, fourier_basis, hermitian_packing, transform


def spectrum_shape(geometry: ConvGeometry, batch: int, channels: int) -> tuple[int, ...]:
    """Shape of the spectrum that `analyze` returns."""
    return (math.prod(geometry.band.real_sizes), batch, channels)


def analyze(maps: Tensor, geometry: ConvGeometry) -> Tensor:
    """Truncated spectrum z (frequencies, B, C) of maps (B, C, n1, ..)."""
    return _to_spectrum(maps, _input_bases(maps, geometry))


def analyze_adjoint(spectrum: Tensor, geometry: ConvGeometry) -> Tensor:
    """Adjoint of `analyze`: maps (B, C, n1, ..) from a spectrum (frequencies, B, C)."""
    return _to_maps(spectrum, _input_bases(spectrum, geometry), geometry.band)


def forward(
    spectrum: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    dtype: torch.dtype,
) -> Tensor:
    """Output maps (B, O, m1, ..) from the spectrum of the input."""
    return forward_prepared(spectrum, prepare_filter(weight, geometry, dtype), bias, geometry)


def prepare_filter(weight: Tensor, geometry: ConvGeometry, dtype: torch.dtype) -> Tensor:
    """The filters' part of the three products: (3 * bins, C / groups, O), in `dtype`."""
    matrix = _filter_matrix(geometry, weight)
    taps = weight.to(matrix.dtype).flatten(2).permute(2, 1, 0)
    products = torch.matmul(matrix, taps.reshape(taps.shape[0], -1))
    return products.view(-1, *taps.shape[1:]).to(dtype)


def forward_prepared(
    spectrum: Tensor, prepared: Tensor, bias: Tensor | None, geometry: ConvGeometry
) -> Tensor:
    """`forward` with filters that `prepare_filter` has transformed, in whose type it multiplies."""
    groups, dtype = geometry.groups, prepared.dtype
    x = _grouped(_three_parts(spectrum, geometry.band).to(dtype), groups)
    products = _ungrouped(torch.matmul(x, _grouped(prepared, groups)))
    p2, p3, p1 = products.to(transform_dtype(dtype)).chunk(3)
    packing = hermitian_packing(geometry.band, p1.dtype, p1.device)
    output = packing.unpack(p1 - p3, p1 + p2)
    maps = _to_maps(output, _output_bases(output, geometry), geometry.band)
    if bias is not None:
        maps = maps + bias.to(maps.dtype).view(-1, *[1] * geometry.axes)
    return maps.to(dtype)


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
    band, groups = geometry.band, geometry.groups
    grad_output = _to_spectrum(grad, _output_bases(grad, geometry))
    packing = hermitian_packing(band, grad_output.dtype, grad_output.device)
    real, imag = packing.pack(grad_output)
    grad_products = _grouped(torch.cat([imag, -real, real + imag]).to(dtype), groups)
    grad_spectrum = grad_weight = None
    if needs_spectrum:
        k = _grouped(prepare_filter(weight, geometry, dtype), groups)
        parts = _ungrouped(torch.matmul(grad_products, k.mT))
        g2, g3, g1 = parts.to(grad_output.dtype).chunk(3)
        grad_spectrum = packing.unpack(g2 + g1, g3 + g1)
    if needs_weight:
        x = _grouped(_three_parts(spectrum, band).to(dtype), groups)
        grad_k = _ungrouped(torch.matmul(x.mT, grad_products)).to(grad_output.dtype)
        taps = torch.matmul(_filter_matrix(geometry, grad_k).T, grad_k.flatten(1))
        inputs, outputs = weight.shape[1], weight.shape[0]
        grad_weight = taps.view(-1, inputs, outputs).permute(2, 1, 0).reshape(weight.shape)
    return grad_spectrum, grad_weight


def _grouped(tensor: Tensor, groups: int) -> Tensor:
    """(frequencies, n, channels) to (frequencies, groups, n, channels per group)."""
    return tensor.view(*tensor.shape[:-1], groups, tensor.shape[-1] // groups).transpose(1, 2)


def _ungrouped(tensor: Tensor) -> Tensor:
    """The inverse of `_grouped`."""
    return tensor.transpose(1, 2).flatten(-2)


def _three_parts(spectrum: Tensor, band: Band) -> Tensor:
    """Xr, Xi and Xr + Xi: (3 * bins, B, C)."""
    spectrum = spectrum.to(transform_dtype(spectrum.dtype))
    real, imag = hermitian_packing(band, spectrum.dtype, spectrum.device).pack(spectrum)
    return torch.cat([real, imag, real + imag])


def _filter_matrix(geometry: ConvGeometry, like: Tensor) -> Tensor:
    return _three_filter_parts(
        geometry.band,
        geometry.kernel,
        geometry.dilation,
        transform_dtype(like.dtype),
        like.device,
    )


@cached_constant
def _three_filter_parts(
    band: Band,
    kernel: tuple[int, ...],
    dilation: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Li - Lr, Lr + Li and Lr of the filter's conjugate spectrum L: (3 * bins, taps)."""
    real, imag = filter_transform(band, kernel, dilation)
    parts = torch.cat([-imag - real, real - imag, real])
    return parts.to(device=device, dtype=dtype)


def _basis(band: Band, axis: int, like: Tensor) -> Tensor:
    return fourier_basis(
        band.sizes[axis], band.kept[axis], transform_dtype(like.dtype), like.device
    )


def _input_bases(like: Tensor, geometry: ConvGeometry) -> list[Tensor]:
    """Q per axis at the points of the unpadded map."""
    return [
        _basis(geometry.band, axis, like)[before : before + size]
        for axis, ((before, _), size) in enumerate(
            zip(geometry.padding, geometry.size, strict=True)
        )
    ]


def _output_bases(like: Tensor, geometry: ConvGeometry) -> list[Tensor]:
    """Q per axis at the output points that the stride keeps."""
    return [
        _basis(geometry.band, axis, like)[: (size - 1) * stride + 1 : stride]
        for axis, (size, stride) in enumerate(
            zip(geometry.output_size, geometry.stride, strict=True)
        )
    ]


def _to_spectrum(maps: Tensor, bases: list[Tensor]) -> Tensor:
    """Q^T per axis: (B, C, n1, ..) to (frequencies, B, C).

    The last axis comes first: there the product reads contiguous maps as they lie, and moves the
    batch and the channels to the end on the way.
    """
    batch, channels, *size = maps.shape
    maps = maps.to(transform_dtype(maps.dtype)).reshape(batch * channels, *size).movedim(0, -1)
    spectrum = transform(maps, [bases[-1].T], len(size) - 1)
    spectrum = transform(spectrum, [q.T for q in bases[:-1]], 0)
    return spectrum.reshape(math.prod(q.shape[1] for q in bases), batch, channels)


def _to_maps(spectrum: Tensor, bases: list[Tensor], band: Band) -> Tensor:
    """Q per axis: (frequencies, B, C) to (B, C, n1, ..)."""
    _, batch, channels = spectrum.shape
    spectrum = spectrum.to(transform_dtype(spectrum.dtype))
    rows = transform(spectrum.view(*band.real_sizes, batch * channels), bases[:-1], 0)
    maps = torch.matmul(rows.mT, bases[-1].T).movedim(-2, 0)
    return maps.reshape(batch, channels, *maps.shape[1:])
