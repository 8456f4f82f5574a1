"""The spectral product: a circular convolution, frequency by frequency, in real numbers.

Y = X conj(K), summed over the input channels, by three real products for each complex one (Gauss),
as in `passband.ops.band_limited_conv.matmul`. K is the DFT of the filter about its centre, so that
the map keeps its place: y[n] = sum_j w[j] x[n + d j - p], with the map continued periodically.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from passband.ops.conv_block.derivative import differentiable_once
from passband.ops.spectral.frame import Frame, self_conjugate_bins
from passband.ops.tracing import is_transformed
from passband.spectrum.band import Band
from passband.spectrum.constants import cached_constant

_CHUNK_BYTES = 2 << 20
"""What the filters' transforms, or the spectra, of the frequencies in work should not exceed."""


def spectral_conv(
    spectrum: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    frame: Frame,
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int = 1,
    is_needed: bool = True,
) -> Tensor:
    """The circular convolution of maps, from spectrum to spectrum.

    Frequencies that are zero in all images and channels are left out of the product.

    Args:
        spectrum: (2, F, B, C).
        weight: Filters (O, C / groups, k1, ..).
        bias: (O,), or None; it is added to frequency zero.
        frame: Of the spectrum, and of the result.
        padding: Place of the filter's centre, as torch's convolutions name it.
        dilation: Distance between taps.
        groups: Groups of channels.
        is_needed: Otherwise zeros stand in for the product, which have its gradients.

    Returns:
        The spectrum (2, F, B, O).

    Examples:
        >>> frame = Frame.of((8, 8))
        >>> x, w = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
        >>> y = frame.to_map(spectral_conv(frame.from_map(x), w, None, frame, (1, 1), (1, 1)))
        >>> padded = torch.nn.functional.pad(x, (1, 1, 1, 1), "circular")
        >>> torch.allclose(y, torch.nn.functional.conv2d(padded, w), atol=1e-4)
        True
    """
    kernel = tuple(weight.shape[2:])
    matrix = _three_filter_parts(
        frame.band, kernel, padding, dilation, spectrum.dtype, spectrum.device
    )
    active = _active(spectrum)
    bins, outputs = frame.bins, weight.shape[0]
    if active is None:
        result = _product(spectrum, weight, matrix, groups, is_needed)
    else:
        part = spectrum[:, active], weight, matrix[:, active]
        found = _product(*part, groups, is_needed)
        result = found.new_zeros(2, bins, spectrum.shape[2], outputs).index_copy(1, active, found)
    # rounding leaves something where the symmetry asks for zero
    alone = self_conjugate_bins(frame.band).to(spectrum.device)
    result[1].index_fill_(0, alone, 0.0)
    if bias is not None:
        result[0, 0] += bias.to(result.dtype) * math.sqrt(math.prod(frame.grid))
    return result


def _active(spectrum: Tensor) -> Tensor | None:
    """The frequencies that are not zero throughout, where leaving out the others pays."""
    recorded = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack()
    if recorded or is_transformed():
        return None  # what is recorded must not depend on values
    numbers = spectrum.detach().flatten(2)
    if numbers.shape[2] == 0:
        return None
    nonzero = ((numbers.amax(2) != 0) | (numbers.amin(2) != 0)).any(0)
    count = int(nonzero.sum())
    return None if count > 0.9 * len(nonzero) else nonzero.nonzero().squeeze(1)


def _product(
    spectrum: Tensor, weight: Tensor, matrix: Tensor, groups: int, is_needed: bool
) -> Tensor:
    """The products of all frequencies: (2, F, B, C) times filters, to (2, F, B, O)."""
    if is_transformed() or torch.compiler.is_compiling():
        return _combined(_parts_product(_three(spectrum), _filters(weight, matrix, groups)))
    result: Tensor = _Product.apply(spectrum, weight, matrix, groups, is_needed)
    return result


class _Product(torch.autograd.Function):
    """A few frequencies at a time; filters are transformed again rather than kept."""

    @staticmethod
    def forward(
        ctx: Any, spectrum: Tensor, weight: Tensor, matrix: Tensor, groups: int, is_needed: bool
    ) -> Tensor:
        ctx.save_for_backward(spectrum, weight, matrix)
        ctx.groups = groups
        if not is_needed:
            return spectrum.new_zeros(*spectrum.shape[:3], weight.shape[0])
        made = [
            _combined(_parts_product(_three(part), _filters(weight, own, groups)))
            for own, part in _chunks(matrix, weight, spectrum)
        ]
        return made[0] if len(made) == 1 else torch.cat(made, 1)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> Any:
        spectrum, weight, matrix = ctx.saved_tensors
        groups, (needs_spectrum, needs_weight) = ctx.groups, ctx.needs_input_grad[:2]
        of_spectrum = torch.empty_like(spectrum) if needs_spectrum else None
        of_taps = matrix.new_zeros(matrix.shape[2], weight.shape[0] * weight.shape[1])
        place = 0
        for own, part, of_part in _chunks(matrix, weight, spectrum, grad):
            of_real, of_imag = (_by_group(g, groups) for g in of_part.to(matrix.dtype))
            of_three = torch.stack([of_imag, -of_real, of_real + of_imag])
            if of_spectrum is not None:
                back = torch.matmul(of_three, _filters(weight, own, groups))
                back = back.transpose(-2, -3).flatten(-2)
                target = of_spectrum[:, place : place + own.shape[1]]
                torch.add(back[0], back[2], out=target[0])
                torch.add(back[1], back[2], out=target[1])
            if needs_weight:
                of_filters = torch.matmul(of_three.mT, _by_group(_three(part), groups))
                of_taps.addmm_(own.flatten(0, 1).T, of_filters.flatten(2).flatten(0, 1))
            place += own.shape[1]
        of_weight = None
        if needs_weight:
            outputs, inputs = weight.shape[:2]
            of_weight = of_taps.view(-1, outputs, inputs).permute(1, 2, 0).reshape(weight.shape)
        return of_spectrum, of_weight, None, None, None


def _chunks(matrix: Tensor, weight: Tensor, *spectra: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some frequencies at a time of the filters' transform (3, F, taps) and of spectra."""
    numbers = max(weight.shape[0] * weight.shape[1], *(s.shape[2] * s.shape[3] for s in spectra))
    count = max(1, _CHUNK_BYTES // (3 * matrix.element_size() * max(1, numbers)))
    for first in range(0, max(1, matrix.shape[1]), count):
        own = slice(first, first + count)
        yield matrix[:, own], *(spectrum[:, own] for spectrum in spectra)


def _three(spectrum: Tensor) -> Tensor:
    """What is multiplied by Li - Lr, Lr + Li and Lr: (3, F, B, C)."""
    real, imag = spectrum
    return torch.stack([real, imag, real + imag])


def _by_group(spectrum: Tensor, groups: int) -> Tensor:
    """(..., F, B, C) as (..., F, groups, B, C / groups)."""
    shape = (*spectrum.shape[:-1], groups, spectrum.shape[-1] // groups)
    return spectrum.view(shape).transpose(-2, -3)


def _filters(weight: Tensor, matrix: Tensor, groups: int) -> Tensor:
    """The filters' parts: (3, F, groups, O / groups, C / groups)."""
    taps = weight.to(matrix.dtype).flatten(2).permute(2, 0, 1)
    filters = torch.matmul(matrix.flatten(0, 1), taps.flatten(1))
    outputs, inputs = weight.shape[:2]
    return filters.view(*matrix.shape[:2], groups, outputs // groups, inputs)


def _parts_product(three: Tensor, filters: Tensor) -> Tensor:
    """The three real products, (3, F, B, O)."""
    x = _by_group(three, filters.shape[2])
    if filters.shape[3] < x.shape[-2]:  # the longer side along the registers
        products = torch.matmul(filters, x.mT).mT
    else:
        products = torch.matmul(x, filters.mT)
    return products.transpose(-2, -3).flatten(-2)


def _combined(products: Tensor) -> Tensor:
    """Real and imaginary parts, (2, F, B, O)."""
    p2, p3, p1 = products
    return torch.stack([p1 - p3, p1 + p2])


@cached_constant
def _three_filter_parts(
    band: Band,
    kernel: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Li - Lr, Lr + Li and Lr of the filter's conjugate spectrum L: (3, F, taps)."""
    bins = band.bins()
    taps = np.indices(kernel).reshape(len(kernel), -1)
    angle = np.zeros((len(bins), math.prod(kernel)))
    for axis, size in enumerate(band.sizes):
        place = taps[axis] * dilation[axis] - padding[axis]
        angle += 2 * np.pi / size * (np.outer(bins[:, axis], place) % size)
    real, imag = np.cos(angle), np.sin(angle)
    imag[self_conjugate_bins(band).numpy()] = 0
    parts = np.stack([imag - real, real + imag, real])
    return torch.tensor(parts, dtype=dtype, device=device)
