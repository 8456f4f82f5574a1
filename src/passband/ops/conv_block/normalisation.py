"""Batch norm inside a block: in place, and the same bits when it is computed again."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, distributed

from passband.ops.band_limited_conv.layout import is_channels_last
from passband.ops.conv_block import kernels
from passband.ops.conv_block.activation import Activation

Sums = tuple[Tensor, Tensor]
"""Gradients of gamma and beta, which are sums over the batch."""


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each channel of some maps, in float64, and over how many values.

    Examples:
        >>> maps = torch.randn(5, 3, 4)
        >>> joint = Moments.joined([Moments.of(part) for part in maps.split(2)])
        >>> torch.allclose(joint.var, maps.double().var((0, 2), correction=0))
        True
    """

    mean: Tensor
    var: Tensor
    count: int

    @classmethod
    def of(cls, maps: Tensor) -> "Moments":
        """Of maps (B, C, n1, ..)."""
        dtype = maps.dtype if maps.dtype == torch.float64 else torch.float32
        zeros = torch.zeros(maps.shape[1], dtype=dtype, device=maps.device)
        mean, var = torch.ops.aten.batch_norm_update_stats(maps, zeros, zeros.clone(), 0.0)
        return cls(mean.double(), var.double(), maps.numel() // maps.shape[1])

    @staticmethod
    def joined(parts: "Sequence[Moments]") -> "Moments":
        """Of all maps together."""
        count = sum(part.count for part in parts)
        mean = sum(part.mean * part.count for part in parts) / count
        var = sum((p.var + (p.mean - mean).square()) * p.count for p in parts) / count
        assert isinstance(mean, Tensor) and isinstance(var, Tensor)
        return Moments(mean, var, count)


@dataclass(frozen=True)
class NormCall:
    """One call of a batch norm, without its parameters.

    Args:
        batch_statistics: Whether the batch's own mean and variance are taken.
        momentum: Weight of the batch in the running statistics.
        eps: Added to the variance.
        running_mean: Updated where `batch_statistics`, else taken; None: there is none.
        running_var: Likewise.
        group: Processes over whose batches statistics are taken together; None: this one's alone.
    """

    batch_statistics: bool
    momentum: float
    eps: float
    running_mean: Tensor | None
    running_var: Tensor | None
    group: "distributed.ProcessGroup | None" = None

    def forward(
        self, maps: Tensor, gamma: Tensor | None, beta: Tensor | None, in_place: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised maps, mean and 1 / standard deviation."""
        mean, var, takes_own = self.running_mean, self.running_var, self.batch_statistics
        if self.group is not None:
            own = next((t.dtype for t in (gamma, mean) if t is not None), maps.dtype)
            mean, var = (moment.to(own) for moment in self.take(Moments.of(maps)))
            takes_own = False
        arguments = (gamma, beta, mean, var, takes_own, self.momentum, self.eps)
        result: tuple[Tensor, Tensor, Tensor]
        if in_place and maps.device.type == "cpu":  # elsewhere kernels do not say that they may
            kept = gamma if gamma is not None else maps
            empty = torch.empty(0, dtype=kept.dtype)
            result = torch.ops.aten.native_batch_norm.out(
                maps, *arguments, out=maps, save_mean=empty, save_invstd=empty.clone()
            )
        else:
            result = torch.native_batch_norm(maps, *arguments)
        if takes_own:
            return result
        assert mean is not None and var is not None
        return result[0], mean.clone(), (var + self.eps).sqrt_().reciprocal_()

    def take(self, moments: "Moments") -> tuple[Tensor, Tensor]:
        """Mean and variance over the batches of all processes; running statistics follow them.

        Raises:
            ValueError: There is one value of each channel, which has no variance.
        """
        if self.group is not None:
            moments = self._of_all_processes(moments)
        mean, var, count = moments.mean, moments.var, moments.count
        if count == 1:
            raise ValueError(
                "batch norm in training needs more than one value of each channel, got one: "
                "take larger batches, or evaluate"
            )
        if self.running_mean is not None and self.running_var is not None:
            unbiased = var * (count / (count - 1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return mean, var

    def _of_all_processes(self, moments: "Moments") -> "Moments":
        mine = torch.cat([moments.mean, moments.var, moments.mean.new_full((1,), moments.count)])
        everyones = [torch.empty_like(mine) for _ in range(distributed.get_world_size(self.group))]
        distributed.all_gather(everyones, mine, self.group)
        channels = len(moments.mean)
        return Moments.joined(
            [Moments(own[:channels], own[channels:-1], round(own[-1].item())) for own in everyones]
        )

    def over_all(self, sums: "Sums", count: int) -> tuple["Sums", int]:
        """Sums over the batch, and the values of each channel, those of all processes together."""
        if self.group is None:
            return sums, count
        both = torch.cat([*sums, sums[0].new_zeros(1)]).double()
        both[-1] = count
        distributed.all_reduce(both, group=self.group)
        first, second = both[:-1].to(sums[0].dtype).view(2, -1)
        return (first, second), round(both[-1].item())


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

    @cached_property
    def scale(self) -> Tensor:
        """Slope of the whole in each channel."""
        return self.invstd if self.gamma is None else self.invstd * self.gamma

    @cached_property
    def _shift(self) -> Tensor:
        """What the whole adds to scale * maps; addcmul makes it as torch's kernel does."""
        beta = torch.zeros_like(self.mean) if self.beta is None else self.beta
        return torch.addcmul(beta, self.mean, self.scale, value=-1)

    def apply(self, maps: Tensor) -> Tensor:
        """The normalised maps again, the same bits as the first time.

        Torch computes scale * x + shift, with one rounding or two as its kernel was compiled; the
        same kernel does it here, whose own statistics are 0 and 1.
        """
        zeros = torch.zeros_like(self.scale)
        normalised, _, _ = torch.native_batch_norm(
            maps, self.scale, self._shift, zeros, torch.ones_like(zeros), False, 0.0, 0.0
        )
        return normalised

    def reduce(self, grad: Tensor, maps: Tensor, activation: Activation | None = None) -> Sums:
        """Gradients of gamma and of beta.

        Args:
            grad: Gradient of the normalised maps, or with an activation of what it makes of them.
            maps: The maps before they were normalised.
            activation: The activation that the gradient has still to go through.
        """
        grad, activation = self._through(maps, grad, activation)
        if self._by_kernels(maps, grad):
            products, totals = self._kernels(activation).sums(maps, grad)
            return (products * self.invstd).to(self.invstd.dtype), totals.to(self.invstd.dtype)
        gamma = torch.ones_like(self.mean) if self.gamma is None else self.gamma
        _, grad_gamma, grad_beta = torch.ops.aten.native_batch_norm_backward(
            grad, maps, gamma, None, None, self.mean, self.invstd, True, 0.0, [False, True, True]
        )
        return grad_gamma, grad_beta

    def backward(
        self,
        maps: Tensor,
        grad: Tensor,
        sums: Sums | None,
        count: int,
        activation: Activation | None,
        to: Tensor,
    ) -> None:
        """Write the gradient of the maps; `count` values of each channel were averaged.

        With x the normalised map before gamma and beta, and s the scale,

            s (grad - mean(grad) - x mean(grad x))

        Args:
            maps: The maps; only looked at with the batch's own statistics or an activation.
            grad: Gradient of the normalised maps, or with an activation of what it makes of them.
            sums: Gradients of gamma and beta, where the batch's own statistics were taken.
            count: Values of each channel.
            activation: The activation that the gradient has still to go through.
            to: Where the gradient is written, perhaps in the place of the maps or of the gradient.
        """
        slope = offset = None
        if self.batch_statistics:
            assert sums is not None
            slope = self.scale * self.invstd * sums[0] / -count
            offset = self.scale * sums[1] / -count
        grad, activation = self._through(maps, grad, activation)
        if self._by_kernels(maps, grad, to):
            self._kernels(activation).backward(maps, grad, to, slope, offset)
            return
        shape = (1, -1, *[1] * (grad.dim() - 2))
        scale = self.scale.view(shape)
        if slope is None or offset is None:
            to.copy_(grad * scale)
            return
        through = (maps - self.mean.view(shape)).mul_(slope.view(shape)).add_(offset.view(shape))
        to.copy_(through.addcmul_(grad.to(scale.dtype), scale))

    def _through(
        self, maps: Tensor, grad: Tensor, activation: Activation | None
    ) -> tuple[Tensor, Activation | None]:
        """The gradient behind the activation, if the kernels cannot take it through by themselves.

        With it the activation that it has still to go through.
        """
        if activation is None:
            return grad, None
        if (
            activation.has_kinks_only
            and self._by_kernels(maps, grad)
            and kernels.have_torchs_bits(is_channels_last(maps))
        ):
            return grad, activation
        return activation.backward(grad, self.apply(maps)), None

    def _by_kernels(self, *maps: Tensor) -> bool:
        return self.scale.dtype == torch.float32 and kernels.apply(*maps)

    def _kernels(self, activation: Activation | None) -> kernels.NormKernels:
        shift = None if activation is None else self._shift
        return kernels.NormKernels(self.mean, self.scale, shift, activation)


def add_up(parts: Sequence[Sums]) -> Sums:
    """Sums over the batch from those over its parts."""
    first, second = zip(*parts, strict=True)
    return sum(first[1:], first[0]), sum(second[1:], second[0])
