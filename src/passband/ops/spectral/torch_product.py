"""The spectral product by torch's products: on any device, in any precision, for any groups."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from passband.ops.tracing import is_transformed

_CHUNK_BYTES = 2 << 20
"""What the filters' transforms, or the spectra, of the frequencies in work should not exceed."""


@dataclass(frozen=True)
class TorchProduct:
    """By torch's products, a few frequencies at a time.

    Args:
        matrix: From taps to the filters' parts; see `three_filter_parts`.
        groups: Groups of channels.
    """

    matrix: Tensor
    groups: int

    def multiply(self, spectrum: Tensor, weight: Tensor) -> Tensor:
        """The products: (2, F, B, C) times filters, to (2, F, B, O)."""

        def product(part: Tensor, matrix: Tensor) -> Tensor:
            return torch_product(part, weight, matrix, self.groups)

        return self._of_active(spectrum, weight, weight.shape[0], product)

    def adjoint(self, grad: Tensor, weight: Tensor) -> Tensor:
        """The gradient of the spectrum from that of the product."""

        def product(part: Tensor, matrix: Tensor) -> Tensor:
            back = torch.matmul(self._three_of(part), _filters(weight, matrix, self.groups))
            back = back.transpose(-2, -3).flatten(-2)
            return torch.stack([back[0] + back[2], back[1] + back[2]])

        return self._of_active(grad, weight, weight.shape[1] * self.groups, product)

    def weight_gradient(self, spectrum: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
        """The gradient of the filters, of which only the shape is needed."""
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


def torch_product(spectrum: Tensor, weight: Tensor, matrix: Tensor, groups: int) -> Tensor:
    """The product of some frequencies, of which the matrix is."""
    filters = _filters(weight, matrix, groups)
    x = _by_group(_three(spectrum), groups)
    if filters.shape[3] < x.shape[-2]:  # the longer side along the registers
        products = torch.matmul(filters, x.mT).mT
    else:
        products = torch.matmul(x, filters.mT)
    p2, p3, p1 = products.transpose(-2, -3).flatten(-2)
    return torch.stack([p1 - p3, p1 + p2])
