"""Batch norm inside a block: in place, and the same bits when it is computed again."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NormCall:
    """One call of a batch norm, without its parameters.

    Args:
        batch_statistics: Whether the batch's own mean and variance are taken.
        momentum: Weight of the batch in the running statistics.
        eps: Added to the variance.
        running_mean: Updated where `batch_statistics`, else taken; None: there is none.
        running_var: Likewise.
    """

    batch_statistics: bool
    momentum: float
    eps: float
    running_mean: Tensor | None
    running_var: Tensor | None

    def forward(
        self, maps: Tensor, gamma: Tensor | None, beta: Tensor | None, in_place: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised maps, mean and 1 / standard deviation."""
        arguments = (
            gamma, beta, self.running_mean, self.running_var, self.batch_statistics,
            self.momentum, self.eps,
        )  # fmt: skip
        result: tuple[Tensor, Tensor, Tensor]
        if in_place and maps.device.type == "cpu":  # elsewhere kernels do not say that they may
            kept = gamma if gamma is not None else maps
            empty = torch.empty(0, dtype=kept.dtype)
            result = torch.ops.aten.native_batch_norm.out(
                maps, *arguments, out=maps, save_mean=empty, save_invstd=empty.clone()
            )
        else:
            result = torch.native_batch_norm(maps, *arguments)
        if self.batch_statistics:
            return result
        assert self.running_mean is not None and self.running_var is not None
        deviation = (self.running_var + self.eps).sqrt_()
        return result[0], self.running_mean.clone(), deviation.reciprocal_()


@dataclass(frozen=True)
class Normalised:
    """A batch norm that has been computed, for its backward pass.

    Args:
        batch_statistics: Whether the batch's own statistics were taken.
        mean: Mean of each channel.
        invstd: 1 / standard deviation of each channel.
        gamma: Scale of each channel, or None.
        beta: Shift of each channel, or None.
    """

    batch_statistics: bool
    mean: Tensor
    invstd: Tensor
    gamma: Tensor | None
    beta: Tensor | None

    @property
    def scale(self) -> Tensor:
        """Slope of the whole in each channel."""
        return self.invstd if self.gamma is None else self.invstd * self.gamma

    def apply(self, maps: Tensor) -> Tensor:
        """The normalised maps again, the same bits as the first time.

        Torch computes scale * x + shift, with one rounding or two as its kernel was compiled; the
        same kernel does it here, whose own statistics are 0 and 1. addcmul makes the shift as that
        kernel does.
        """
        scale = self.scale
        beta = torch.zeros_like(self.mean) if self.beta is None else self.beta
        shift = torch.addcmul(beta, self.mean, scale, value=-1)
        zeros = torch.zeros_like(scale)
        normalised, _, _ = torch.native_batch_norm(
            maps, scale, shift, zeros, torch.ones_like(scale), False, 0.0, 0.0
        )
        return normalised

    def reduce(self, grad: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of gamma and of beta, from those of the normalised maps and the maps."""
        gamma = torch.ones_like(self.mean) if self.gamma is None else self.gamma
        _, grad_gamma, grad_beta = torch.ops.aten.native_batch_norm_backward(
            grad, maps, gamma, None, None, self.mean, self.invstd, True, 0.0, [False, True, True]
        )
        return grad_gamma, grad_beta

    def grad_maps_(
        self,
        maps: Tensor | None,
        grad: Tensor,
        sums: tuple[Tensor, Tensor] | None,
        count: int,
    ) -> Tensor:
        """Gradient of the maps, in their place; `count` values of each channel were averaged.

        `sums` are the gradients of gamma and beta, needed only where the batch's own statistics
        were taken.

        With x the normalised map before gamma and beta, and s the scale,

            s (grad - mean(grad) - x mean(grad x))
        """
        shape = (1, -1, *[1] * (grad.dim() - 2))
        scale = self.scale.view(shape)
        if not self.batch_statistics:
            return (grad * scale).to(grad.dtype)
        assert maps is not None and sums is not None
        grad_gamma, grad_beta = sums
        slope = (self.scale * self.invstd * grad_gamma / -count).view(shape)
        offset = (self.scale * grad_beta / -count).view(shape)
        mean = self.mean.view(shape)
        if maps.dtype != slope.dtype:
            return maps.copy_(
                ((maps - mean) * slope + offset).addcmul_(grad.to(slope.dtype), scale)
            )
        maps.sub_(mean)
        return torch.addcmul(offset, maps, slope, out=maps).addcmul_(grad, scale)
