"""The spectral product: a circular convolution, frequency by frequency, in real numbers.

Y = X conj(K), summed over the input channels, by three real products for each complex one (Gauss),
as in `passband.ops.band_limited_conv.matmul`. K is the DFT of the filter about its centre, so that
the map keeps its place: y[n] = sum_j w[j] x[n + d j - p], with the map continued periodically.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from passband.ops.conv_block.derivative import differentiable_once
from passband.ops.spectral.filter_tables import tap_tables, three_filter_parts
from passband.ops.spectral.frame import Frame, self_conjugate_bins
from passband.ops.spectral.native import product as kernels
from passband.ops.spectral.native.product import TapTables
from passband.ops.spectral.torch_product import TorchProduct, torch_product
from passband.ops.tracing import is_evaluated_eagerly, is_transformed


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
        by = _ByKernels(tap_tables(*taps))
    else:
        matrix = three_filter_parts(*taps, spectrum.dtype, spectrum.device)
        if is_transformed() or torch.compiler.is_compiling():
            return _with_bias(torch_product(spectrum, weight, matrix, groups), bias, frame)
        by = TorchProduct(matrix, groups)
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
