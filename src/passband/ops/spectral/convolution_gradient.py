"""The gradient of a convolution without the convolution, for where the result is not needed."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.native import convolution as native
from passband.ops.band_limited_conv.select import select_algorithm


def gradient_only(
    maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry
) -> Tensor | None:
    """A stand-in for a convolution's result: a tensor of its shape, with its gradients.

    Args:
        maps: (B, C, n1, ..).
        weight: Filters (O, C / groups, k1, ..).
        bias: (O,), or None.
        geometry: Of the convolution.

    Returns:
        Zeros that need no memory; None where the gradient needs more than the convolution's input:
        below full band where no kernels apply, and under autocast.

    Examples:
        >>> from passband.ops.band_limited_conv.geometry import conv_geometry
        >>> x, w = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(4, 3, 3, 3)
        >>> result = gradient_only(x, w, None, conv_geometry((8, 8), (3, 3), padding=1))
        >>> expected = torch.nn.functional.conv2d(x, w, padding=1)
        >>> g = torch.randn(2, 4, 8, 8)
        >>> torch.allclose(*(torch.autograd.grad(y, x, g)[0] for y in (result, expected)))
        True
    """
    if torch.is_autocast_enabled(maps.device.type):
        return None
    algorithm = select_algorithm(
        "auto", geometry, maps.shape[0], maps.shape[1], weight.shape[0], maps.device, weight.dtype
    ).algorithm
    by_kernels = algorithm == "matmul" and native.applies(geometry, weight.dtype, maps, weight)
    if not by_kernels:
        if not geometry.band.is_full:
            return None
        if any(before != after for before, after in geometry.padding):
            maps = F.pad(maps, [p for pair in reversed(geometry.padding) for p in pair])
            geometry = ConvGeometry(
                geometry.padded_size, ((0, 0),) * len(geometry.size), geometry.kernel,
                geometry.stride, geometry.dilation, geometry.groups, geometry.grid, geometry.kept,
            )  # fmt: skip
    result: Tensor = _GradientOnly.apply(maps, weight, bias, geometry, by_kernels)
    return result


class _GradientOnly(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry,
        by_kernels: bool,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(maps, weight)
        ctx.geometry, ctx.by_kernels = geometry, by_kernels
        shape = (maps.shape[0], weight.shape[0], *geometry.output_size)
        return maps.new_zeros(()).expand(shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        maps, weight = ctx.saved_tensors
        needs_maps, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        geometry = ctx.geometry
        if ctx.by_kernels:
            of_maps, of_weight = native.backward(
                grad, maps, weight, geometry, True, False, needs_maps, needs_weight
            )
            of_bias = grad.sum((0, *range(2, grad.dim()))) if needs_bias else None
            return of_maps, of_weight, of_bias, None, None
        found = torch.ops.aten.convolution_backward(
            grad, maps, weight, [weight.shape[0]], geometry.stride,
            [before for before, _ in geometry.padding], geometry.dilation, False,
            [0] * geometry.axes, geometry.groups, [needs_maps, needs_weight, needs_bias],
        )  # fmt: skip
        return *found, None, None
