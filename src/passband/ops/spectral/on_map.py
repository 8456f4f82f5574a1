"""What is done to maps between spectra: an activation, and pooling."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from passband.ops.conv_block.pooling import Pool
from passband.ops.conv_block.single import max_pool
from passband.ops.spectral.resample import low_pass_and_sample
from passband.ops.tracing import is_evaluated_eagerly, spatial_size

MAP_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "elu": F.elu,
    "leaky-relu": F.leaky_relu,
}
"""Activations of maps, by name: the spectrum is transformed to the map and back around them."""

NON_DECREASING = ("identity", "relu", "tanh", "elu", "leaky-relu")
"""The maximum of what they make of numbers is what they make of the maximum."""


@dataclass(frozen=True)
class OnMap:
    """An activation and pooling of maps (B, C, n1, ..).

    Args:
        activation: One of `MAP_ACTIVATIONS`.
        pool: Factor per axis.
        pool_mode: "max", "average", "stride" or "spectral": low-passed and sampled.

    Examples:
        >>> OnMap("relu", (2,), "max")(torch.tensor([[[-1.0, -2.0, 3.0, 1.0]]]))
        tensor([[[0., 3.]]])
    """

    activation: str
    pool: tuple[int, ...]
    pool_mode: str

    @property
    def is_known_by_its_result(self) -> bool:
        """Whether `gradient` is there."""
        return self.activation in ("identity", "relu") and max(self.pool) == 1

    def gradient(self, grad: Tensor, result: Tensor) -> Tensor:
        """The gradient of what it was given, from that of its result, and its result."""
        if self.activation == "identity":
            return grad
        own: Tensor = torch.ops.aten.threshold_backward(grad, result, 0)
        return own

    def size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Points of the result; what is left over is dropped."""
        return tuple(n // s for n, s in zip(size, self.pool, strict=True))

    def __call__(self, maps: Tensor) -> Tensor:  # noqa: D102  # the class says it
        activation = MAP_ACTIVATIONS[self.activation]
        if self.pool_mode == "max" and self.activation in NON_DECREASING:
            return activation(self._pooled(maps))  # of fewer numbers
        return self._pooled(activation(maps))

    def _pooled(self, maps: Tensor) -> Tensor:
        if max(self.pool) == 1:
            return maps
        size = self.size(spatial_size(maps))
        if self.pool_mode == "max":
            return self._maxima(maps)
        if self.pool_mode == "average":
            return (
                F.avg_pool1d(maps, self.pool) if len(size) == 1 else F.avg_pool2d(maps, self.pool)
            )
        if self.pool_mode == "stride":
            for axis, (n, s) in enumerate(zip(size, self.pool, strict=True), 2):
                places = torch.arange(0, n * s, s, device=maps.device)
                maps = maps.index_select(axis, places)
            return maps
        return low_pass_and_sample(maps, size)

    def _maxima(self, maps: Tensor) -> Tensor:
        window = (*(1,) * (2 - len(self.pool)), *self.pool)
        pool = Pool("max", (window[0], window[1]), (window[0], window[1]), (0, 0))
        if is_evaluated_eagerly() and pool.is_by_kernels(maps):
            return max_pool(maps, pool)
        return (
            F.max_pool1d(maps, self.pool) if len(self.pool) == 1 else F.max_pool2d(maps, self.pool)
        )
