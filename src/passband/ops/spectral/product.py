"""The spectral product: a circular convolution, frequency by frequency, in real numbers.

Y = X conj(K), summed over the input channels, by three real products for each complex one (Gauss),
as in `passband.ops.band_limited_conv.matmul`. K is the DFT of the filter about its centre, so that
the map keeps its place: y[n] = sum_j w[j] x[n + d j - p], with the map continued periodically.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from passband.ops.conv_block.derivative import differentiable_once
from passband.ops.spectral.frame import Frame, self_conjugate_bins
from passband.ops.spectral.native import product as kernels
from passband.ops.spectral.native.product import TapTables
from passband.ops.tracing import is_evaluated_eagerly, is_transformed
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
    taps = frame.band, tuple(weight.shape[2:]), padding, dilation
    by: _Way
    if groups == 1 and is_evaluated_eagerly() and kernels.suits(spectrum, weight):
        by = _ByKernels(_tap_tables(*taps))
    else:
        matrix = _three_filter_parts(*taps, spectrum.dtype, spectrum.device)
        if is_transformed() or torch.compiler.is_compiling():
            return _with_bias(_product(spectrum, weight, matrix, groups), bias, frame)
        by = _ByTorch(matrix, groups)
    result: Tensor = _Product.apply(spectrum, weight, bias, frame, by, is_needed)
    return result


def _with_bias(product: Tensor, bias: Tensor | None, frame: Frame) -> Tensor:
    """The convolution's spectrum, in the place of the product.

    Rounding leaves something in that where the symmetry asks for zero.
    """
    product[1].index_fill_(0, _alone(product, frame), 0.0)
    if bias is not None:
        product[0, 0] += bias.to(product.dtype) * math.sqrt(math.prod(frame.grid))
    return product


def _alone(spectrum: Tensor, frame: Frame) -> Tensor:
    return self_conjugate_bins(frame.band).to(spectrum.device)


class _Way(Protocol):
    """How products are computed; frequencies that are zero throughout are left out."""

    def multiply(self, spectrum: Tensor, weight: Tensor) -> Tensor:
        """The products of all frequencies: (2, F, B, C) times filters, to (2, F, B, O)."""

    def adjoint(self, grad: Tensor, weight: Tensor) -> Tensor:
        """The gradient of the spectrum, (2, F, B, C), from that of the product."""

    def weight_gradient(self, spectrum: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
        """The gradient of the filters, of which only the shape is needed."""


class _Product(torch.autograd.Function):
    """Filters are transformed again rather than kept."""

    @staticmethod
    def forward(
        ctx: Any, spectrum: Tensor, weight: Tensor, bias: Tensor | None, frame: Frame, by: _Way,
        is_needed: bool,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(spectrum, weight)
        ctx.by, ctx.frame, ctx.bias_dtype = by, frame, None if bias is None else bias.dtype
        if not is_needed:
            return spectrum.new_zeros(()).expand(*spectrum.shape[:3], weight.shape[0])
        return _with_bias(by.multiply(spectrum, weight), bias, frame)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> Any:
        spectrum, weight = ctx.saved_tensors
        needs_spectrum, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        alone, of_bias = _alone(grad, ctx.frame), None
        if needs_bias:
            of_bias = grad[0, 0].sum(0) * math.sqrt(math.prod(ctx.frame.grid))
            of_bias = of_bias.to(ctx.bias_dtype)
        if grad[1].index_select(0, alone).any():  # of numbers that are zero whatever is multiplied
            grad = grad.index_put((torch.ones_like(alone), alone), grad.new_zeros(()))
        return (
            ctx.by.adjoint(grad, weight) if needs_spectrum else None,
            ctx.by.weight_gradient(spectrum, grad, weight) if needs_weight else None,
            of_bias,
            *(None,) * 3,
        )


@dataclass(frozen=True)
class _ByKernels:
    """By the compiled kernels."""

    tables: TapTables

    def multiply(self, spectrum: Tensor, weight: Tensor) -> Tensor:
        return kernels.multiply(spectrum, weight, self.tables)

    def adjoint(self, grad: Tensor, weight: Tensor) -> Tensor:
        return kernels.multiply(grad, weight, self.tables, adjoint=True)

    def weight_gradient(self, spectrum: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
        return kernels.weight_gradient(spectrum, grad, weight, self.tables)


@dataclass(frozen=True)
class _ByTorch:
    """By torch's products, a few frequencies at a time.

    Args:
        matrix: From taps to the filters' parts; see `_three_filter_parts`.
        groups: Groups of channels.
    """

    matrix: Tensor
    groups: int

    def multiply(self, spectrum: Tensor, weight: Tensor) -> Tensor:
        def product(part: Tensor, matrix: Tensor) -> Tensor:
            return _product(part, weight, matrix, self.groups)

        return self._of_active(spectrum, weight, weight.shape[0], product)

    def adjoint(self, grad: Tensor, weight: Tensor) -> Tensor:
        def product(part: Tensor, matrix: Tensor) -> Tensor:
            back = torch.matmul(self._three_of(part), _filters(weight, matrix, self.groups))
            back = back.transpose(-2, -3).flatten(-2)
            return torch.stack([back[0] + back[2], back[1] + back[2]])

        return self._of_active(grad, weight, weight.shape[1] * self.groups, product)

    def weight_gradient(self, spectrum: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
        outputs, inputs = weight.shape[:2]
        matrix, active = self.matrix, _active(grad)
        if active is not None:
            matrix, spectrum, grad = matrix[:, active], spectrum[:, active], grad[:, active]
        of_taps = matrix.new_zeros(matrix.shape[2], outputs * inputs)
        for own, part, of_part in _chunks(matrix, weight, spectrum, grad):
            x = _by_group(_three(part), self.groups)
            of_filters = torch.matmul(self._three_of(of_part).mT, x)
            of_taps.addmm_(own.flatten(0, 1).T, of_filters.flatten(2).flatten(0, 1))
        return of_taps.view(-1, outputs, inputs).permute(1, 2, 0).reshape(weight.shape)

    def _of_active(
        self,
        spectrum: Tensor,
        weight: Tensor,
        channels: int,
        product: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """What a product gives of the frequencies that are not zero; of the others zero."""
        matrix, active, whole = self.matrix, _active(spectrum), spectrum
        if active is not None:
            matrix, spectrum = matrix[:, active], spectrum[:, active]
        made = [product(part, own) for own, part in _chunks(matrix, weight, spectrum)]
        result = made[0] if len(made) == 1 else torch.cat(made, 1)
        if active is None:
            return result
        return result.new_zeros(*whole.shape[:3], channels).index_copy(1, active, result)

    def _three_of(self, grad: Tensor) -> Tensor:
        """The gradients of the three products, by group."""
        real, imag = (_by_group(g, self.groups) for g in grad.to(self.matrix.dtype))
        return torch.stack([imag, -real, real + imag])


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


def _product(spectrum: Tensor, weight: Tensor, matrix: Tensor, groups: int) -> Tensor:
    """The product of some frequencies, of which the matrix is."""
    filters = _filters(weight, matrix, groups)
    x = _by_group(_three(spectrum), groups)
    if filters.shape[3] < x.shape[-2]:  # the longer side along the registers
        products = torch.matmul(filters, x.mT).mT
    else:
        products = torch.matmul(x, filters.mT)
    p2, p3, p1 = products.transpose(-2, -3).flatten(-2)
    return torch.stack([p1 - p3, p1 + p2])


@cached_constant
def _tap_tables(
    band: Band, kernel: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]
) -> TapTables:
    """The kernels' tables; see `_three_filter_parts`."""
    places = [
        tuple(d * int(t) - p for t, d, p in zip(tap, dilation, padding, strict=True))
        for tap in np.ndindex(*kernel)
    ]
    opposite = [tuple(-p for p in place) for place in places]
    pairs = [(t, places.index(o)) for t, o in enumerate(opposite) if o in places]
    pairs = [(t, o) for t, o in pairs if t < o]
    alone = {*range(len(places))} - {t for pair in pairs for t in pair}
    first = [t for t, _ in pairs] + sorted(alone, key=lambda t: (not any(places[t]), t))
    angle = _angles(band, kernel, padding, dilation)[:, first]
    turning = [slot for slot, t in enumerate(first) if any(places[t])]  # all but one in the middle
    cosine, sine = np.cos(angle), np.sin(angle[:, turning])
    sine[self_conjugate_bins(band).numpy()] = 0
    return TapTables(
        torch.tensor(first, dtype=torch.int32),
        torch.tensor([other for _, other in pairs], dtype=torch.int32),
        *(torch.tensor(table, dtype=torch.float32).contiguous() for table in (cosine, sine)),
    )


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
    angle = _angles(band, kernel, padding, dilation)
    real, imag = np.cos(angle), np.sin(angle)
    imag[self_conjugate_bins(band).numpy()] = 0
    parts = np.stack([imag - real, real + imag, real])
    return torch.tensor(parts, dtype=dtype, device=device)


def _angles(
    band: Band, kernel: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """Phases of the taps at the bins: (F, taps)."""
    bins = band.bins()
    taps = np.indices(kernel).reshape(len(kernel), -1)
    angle = np.zeros((len(bins), math.prod(kernel)))
    for axis, size in enumerate(band.sizes):
        place = taps[axis] * dilation[axis] - padding[axis]
        angle += 2 * np.pi / size * (np.outer(bins[:, axis], place) % size)
    return angle
