"""Activations of a block, their derivatives, and what has to be known to take those."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """An activation and its derivative.

    Args:
        name: Its name in torch.nn.functional.
        parameter: Slope of "leaky_relu", the approximation of "gelu"; None elsewhere.

    Examples:
        >>> relu = Activation("relu")
        >>> relu.backward(torch.ones(3), torch.tensor([-1.0, 0.0, 2.0])).tolist()
        [0.0, 0.0, 1.0]
    """

    name: str
    parameter: float | str | None = None

    @property
    def has_kinks_only(self) -> bool:
        """Whether the derivative has two values, so that one bit per element tells it."""
        return self.name in ("relu", "relu6", "leaky_relu")

    @property
    def kinks(self) -> tuple[float, float, float]:
        """The derivative is 1 between the first two and the third elsewhere; see the above.

        The second is not a number where there is no upper kink.
        """
        slope = self.parameter if self.name == "leaky_relu" else 0.0
        assert isinstance(slope, float)
        return 0.0, 6.0 if self.name == "relu6" else math.nan, slope

    def forward(self, v: Tensor) -> Tensor:
        """The activation, in place where torch can."""
        return _FORWARD[self.name](v, self.parameter)

    def backward(self, grad: Tensor, v: Tensor) -> Tensor:
        """The gradient of v from that of the activation."""
        return _BACKWARD[self.name](grad, v, self.parameter)

    def side(self, v: Tensor) -> Tensor:
        """One bit per element that tells the derivative; for those that `has_kinks_only`."""
        return (v > 0) & (v < 6) if self.name == "relu6" else v > 0

    def backward_by_side(self, grad: Tensor, side: Tensor) -> Tensor:
        """The gradient of v from that of the activation and the bits of `side`."""
        if self.name == "leaky_relu":
            assert isinstance(self.parameter, float)
            return torch.where(side, grad, grad * self.parameter)
        return grad * side


def _gelu(v: Tensor, approximate: float | str | None) -> Tensor:
    return F.gelu(v, approximate=str(approximate))


def _leaky_relu(v: Tensor, slope: float | str | None) -> Tensor:
    assert isinstance(slope, float)
    return F.leaky_relu_(v, slope)


def _gelu_backward(grad: Tensor, v: Tensor, approximate: float | str | None) -> Any:
    return _aten.gelu_backward(grad, v, approximate=approximate)


_FORWARD: dict[str, Callable[[Tensor, float | str | None], Tensor]] = {
    "relu": lambda v, _: v.relu_(),
    "relu6": lambda v, _: F.relu6(v, inplace=True),
    "leaky_relu": _leaky_relu,
    "silu": lambda v, _: F.silu(v, inplace=True),
    "hardswish": lambda v, _: F.hardswish(v, inplace=True),
    "tanh": lambda v, _: v.tanh_(),
    "gelu": _gelu,
}
_BACKWARD: dict[str, Callable[[Tensor, Tensor, float | str | None], Tensor]] = {
    "relu": lambda grad, v, _: _aten.threshold_backward(grad, v, 0),
    "relu6": lambda grad, v, _: _aten.hardtanh_backward(grad, v, 0.0, 6.0),
    "leaky_relu": lambda grad, v, slope: _aten.leaky_relu_backward(grad, v, slope, False),
    "silu": lambda grad, v, _: _aten.silu_backward(grad, v),
    "hardswish": lambda grad, v, _: _aten.hardswish_backward(grad, v),
    "tanh": lambda grad, v, _: _aten.tanh_backward(grad, v.tanh()),
    "gelu": _gelu_backward,
}
ACTIVATIONS = tuple(_FORWARD)
