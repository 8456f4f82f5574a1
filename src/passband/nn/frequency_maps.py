"""What stands between layers in the channel domain: transforms, batch norm, sums, depthwise layers.

A map holds the channel coefficients that can be other than zero, the lowest first; one that
concatenates others holds them one after the other. ReLU, pooling, dropout and concatenation are
torch's own, on the coefficients; they leave zeros zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband.spectrum.dct import dct_matrix
from passband.spectrum.dft import transform


class ChannelDCT(nn.Module):
    """The orthonormal DCT-II along the channels of (B, C, ..), or its inverse.

    Args:
        channels: C. The inverse takes fewer, and has the rest for zeros.
        inverse: Whether it is the inverse.

    Examples:
        >>> x = torch.randn(2, 5, 4, 4)
        >>> torch.allclose(ChannelDCT(5, inverse=True)(ChannelDCT(5)(x)), x, atol=1e-5)
        True
    """

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.inverse = inverse

    def matrix(self, input: Tensor) -> Tensor:
        """What the channels of the input are multiplied by."""
        matrix = dct_matrix(self.channels, input.dtype, input.device)
        return matrix[: input.shape[1]].T if self.inverse else matrix

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ..) -> (B, C, ..)."""
        return transform(input, [self.matrix(input)], 1)

    def extra_repr(self) -> str:
        """Size and direction."""
        return f"{self.channels}, inverse={self.inverse}"


class FrequencyBatchNorm(nn.Module):
    """Batch norm of the channel coefficients that there are; the others stay zero.

    Restricted to what is kept, there is no constant to fold into what was cut away. State as in
    torch.nn.BatchNorm.

    Args:
        num_features: Channels, kept or not.
        eps: Added to the variance.
        momentum: Weight of a batch in the running statistics; None: the mean over all batches.
        affine: Whether there are a weight and a bias per channel.
        track_running_stats: Whether there are running statistics, for evaluation.

    Examples:
        >>> FrequencyBatchNorm(64)(torch.randn(4, 5, 8, 8)).shape
        torch.Size([4, 5, 8, 8])
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    channel_index: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(num_features, eps, momentum, affine, track_running_stats)
        self._take(norm)

    @classmethod
    def from_norm(cls, norm: nn.Module) -> "FrequencyBatchNorm":
        """A layer with the parameters of a torch.nn.BatchNorm1d, 2d or 3d, and fresh statistics."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._take(norm)
        return made

    def _take(self, norm: nn.Module) -> None:
        self.__dict__.update(norm.__dict__)
        self._buffers = dict(norm._buffers)
        self.num_features: int
        self.eps: float
        self.momentum: float | None
        self.affine: bool
        self.track_running_stats: bool
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
        self.register_buffer("channel_index", None, persistent=False)

    def to_norm(self, native: type[nn.Module]) -> nn.Module:
        """The torch layer with these parameters and statistics."""
        norm = native.__new__(native)
        norm.__dict__.update(self.__dict__)
        norm._buffers = {k: v for k, v in self._buffers.items() if k != "channel_index"}
        return norm

    @property
    def index_device(self) -> torch.device | None:
        """Where its parameters and statistics are; None without any."""
        tensors = [*self._parameters.values(), *self._buffers.values()]
        return next((tensor.device for tensor in tensors if tensor is not None), None)

    def chosen(self, values: Tensor | None, channels: int) -> Tensor | None:
        """Of one value per channel those of the channels that are there."""
        if values is None:
            return None
        if self.channel_index is not None:
            return values[self.channel_index]
        return values[:channels]

    def forward(self, input: Tensor) -> Tensor:
        """(B, c, ..) -> (B, c, ..) for any c up to the channels of the layer."""
        channels = input.shape[1]
        mean, var = (self.chosen(v, channels) for v in (self.running_mean, self.running_var))
        weight, bias = (self.chosen(self._parameters[n], channels) for n in ("weight", "bias"))
        factor = self.momentum if self.momentum is not None else 0.0
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1.0 / float(self.num_batches_tracked)
        batch_statistics = self.training or mean is None
        output = F.batch_norm(input, mean, var, weight, bias, batch_statistics, factor, self.eps)
        if self.training and self.channel_index is not None and mean is not None:
            assert self.running_mean is not None and self.running_var is not None
            assert var is not None
            self.running_mean[self.channel_index] = mean
            self.running_var[self.channel_index] = var
        return output

    def extra_repr(self) -> str:
        """As torch's."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class CoefficientConv2d(nn.Conv2d):
    """A grouped convolution of channel coefficients, which has no dual: applied to them as it is.

    Depthwise, it takes and gives the coefficients that there are. With more channels per group it
    takes all of them, zeros for those that are left out, and gives all.

    Examples:
        >>> layer = CoefficientConv2d(8, 8, 3, padding=1, groups=8)
        >>> layer(torch.randn(2, 5, 6, 6)).shape
        torch.Size([2, 5, 6, 6])
    """

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is by itself."""
        return self.groups == self.in_channels == self.out_channels

    def forward(self, input: Tensor) -> Tensor:
        """(B, c, H, W) -> (B, c, ..) depthwise, otherwise (B, O, ..)."""
        if not self.is_depthwise:
            whole = pad_channels(input, self.in_channels)
            return super().forward(whole)
        channels = input.shape[1]
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, self.padding_mode)
        padding = self.padding if self.padding_mode == "zeros" else 0
        weight, bias = self.weight[:channels], self.bias
        bias = None if bias is None else bias[:channels]
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, channels)

    def macs(self, input_shape: tuple[int, ...], dense: bool = False) -> int:
        """Multiply-accumulates of a forward pass on a map with the channels that it has."""
        probe = torch.empty(1, 1, *input_shape[2:], device="meta")
        one = torch.empty(1, 1, *self.kernel_size, device="meta")
        padding = self.padding if self.padding_mode == "zeros" else "valid"
        if self.padding_mode != "zeros":
            probe = F.pad(probe, self._reversed_padding_repeated_twice)
        points = F.conv2d(probe, one, None, self.stride, padding, self.dilation)[0, 0].numel()
        taps = one.numel()
        if dense or not self.is_depthwise:
            return (
                input_shape[0] * points * taps * self.in_channels * self.out_channels // self.groups
            )
        return input_shape[0] * points * taps * input_shape[1]


def pad_channels(input: Tensor, channels: int) -> Tensor:
    """Zeros for the channels that a map (B, c, ..) lacks.

    Examples:
        >>> pad_channels(torch.ones(1, 2, 1), 3).flatten()
        tensor([1., 1., 0.])
    """
    missing = channels - input.shape[1]
    return F.pad(input, [0, 0] * (input.dim() - 2) + [0, missing]) if missing > 0 else input


def add_maps(first: Tensor, second: Tensor) -> Tensor:
    """The sum of two maps, of which one may have fewer channels: zeros are added there.

    Examples:
        >>> add_maps(torch.ones(1, 3, 2), torch.ones(1, 1, 2)).sum(2)
        tensor([[4., 2., 2.]])
    """
    channels = max(first.shape[1], second.shape[1])
    return pad_channels(first, channels) + pad_channels(second, channels)
