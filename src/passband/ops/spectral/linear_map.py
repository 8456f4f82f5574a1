"""Linear functions that differentiation goes back through by their adjoints."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from passband.ops.tracing import is_transformed


class _LinearMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, apply: Any, adjoint: Any) -> Tensor:
        ctx.functions = adjoint, apply
        out: Tensor = apply(tensor)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return linear_map(grad, *ctx.functions), None, None


def linear_map(
    tensor: Tensor, apply: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor]
) -> Tensor:
    """A linear function of which the adjoint is known, so that it is what differentiation uses.

    Of a gather, autograd's own is a scatter with additions, which is slow on a CPU.

    Examples:
        >>> x = torch.ones(3, requires_grad=True)
        >>> linear_map(x, lambda v: 2 * v, lambda v: 2 * v).sum().backward()
        >>> x.grad
        tensor([2., 2., 2.])
    """
    if torch.is_grad_enabled() and tensor.requires_grad and not is_transformed():
        return _LinearMap.apply(tensor, apply, adjoint)  # type: ignore[no-any-return]
    return apply(tensor)
