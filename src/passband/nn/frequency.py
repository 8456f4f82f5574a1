"""Convolutions and linear layers whose weights are DCT coefficients; see `frequency_layer`."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband.nn.frequency_layer import FrequencyLayer


class _FrequencyConv(FrequencyLayer):
    """What the convolutions share: torch's arguments and attributes."""

    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    groups: int
    kernel_size: tuple[int, ...]
    padding_mode: str
    _reversed_padding_repeated_twice: list[int]

    def _apply_weight(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve: Any = F.conv1d if len(self.kernel_size) == 1 else F.conv2d
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, self.padding_mode)
            padding = 0
        groups = self.groups
        output: Tensor = convolve(input, weight, bias, self.stride, padding, self.dilation, groups)
        return output

    def _points(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        probe = torch.empty(1, 1, *input_shape[2:], device="meta")
        one = torch.empty(1, 1, *self.kernel_size, device="meta")
        convolve: Any = F.conv1d if len(self.kernel_size) == 1 else F.conv2d
        if self.padding_mode != "zeros":
            probe = F.pad(probe, self._reversed_padding_repeated_twice)
            return tuple(convolve(probe, one, None, self.stride, 0, self.dilation).shape[2:])
        found = convolve(probe, one, None, self.stride, self.padding, self.dilation)
        return tuple(found.shape[2:])


class FrequencyConv2d(_FrequencyConv):
    """Convolution of images with DCT coefficients for weights; arguments as in torch.nn.Conv2d.

    Args:
        domain: "channel": input and output are coefficients along the channels, and those that
            are zero are left out. "spatial": input and output are ordinary maps.
        order: What is dropped first, "shells" or "zigzag"; see `passband.spectrum.corner`.

    Raises:
        ValueError: The domain is "channel", and there are groups.

    Examples:
        >>> layer = FrequencyConv2d(64, 128, 3, padding=1)
        >>> layer.keep_count(516)
        >>> layer(torch.randn(2, 64, 9, 9)).shape, layer.in_kept
        (torch.Size([2, 8, 9, 9]), 8)
    """

    _native = nn.Conv2d


class FrequencyConv1d(_FrequencyConv):
    """Convolution of series with DCT coefficients for weights; see `FrequencyConv2d`.

    Examples:
        >>> layer = FrequencyConv1d(8, 16, 3, padding=1)
        >>> layer.keep_count(30)
        >>> layer(torch.randn(2, 8, 20)).shape
        torch.Size([2, 3, 20])
    """

    _native = nn.Conv1d


class FrequencyConvTranspose2d(FrequencyLayer):
    """Transposed convolution with DCT coefficients for weights; see `FrequencyConv2d`.

    Arguments as in torch.nn.ConvTranspose2d.

    Examples:
        >>> layer = FrequencyConvTranspose2d(16, 8, 2, stride=2)
        >>> layer.keep_count(16)
        >>> layer(torch.randn(2, 16, 5, 5)).shape
        torch.Size([2, 2, 10, 10])
    """

    _native = nn.ConvTranspose2d
    _in_axis, _out_axis = 0, 1

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    kernel_size: tuple[int, ...]

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """As `FrequencyLayer.forward`.

        Raises:
            ValueError: There is an output_size, as torch.nn.ConvTranspose2d takes it.
        """
        if output_size is not None:
            raise ValueError(f"output_size is {output_size}; use output_padding of the layer")
        return super().forward(input)

    def _apply_weight(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv_transpose2d(
            input, weight, bias, self.stride, self.padding, self.output_padding, self.groups,
            self.dilation,
        )  # fmt: skip

    def _points(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(input_shape[2:])


class FrequencyLinear(FrequencyLayer):
    """Linear layer with DCT coefficients for weights; arguments as in torch.nn.Linear.

    After a map (B, C, H, W) has been flattened, it is a convolution with a kernel of H x W, and
    its coefficients are those of one: `from_layer` takes the points as `positions`.

    Examples:
        >>> layer = FrequencyLinear(64, 10)
        >>> layer.keep_count(100)
        >>> layer(torch.randn(2, 64)).shape, layer.in_kept
        (torch.Size([2, 10]), 10)
    """

    _native = nn.Linear

    positions: tuple[int, ...] = ()

    @classmethod
    def from_layer(
        cls,
        layer: nn.Module,
        *,
        domain: str = "channel",
        order: str = "shells",
        in_blocks: tuple[int, ...] | None = None,
        positions: tuple[int, ...] = (),
    ) -> "FrequencyLinear":
        """As `FrequencyLayer.from_layer`, after the flattening of maps of these points."""
        layer.__dict__["positions"] = positions
        return super().from_layer(layer, domain=domain, order=order, in_blocks=in_blocks)

    def _shaped(self, weight: Tensor, in_blocks: tuple[int, ...] | None) -> Tensor:
        return weight.view(len(weight), -1, *self.positions)

    def _channels(self, shape: tuple[int, ...]) -> int:
        channels, rest = divmod(int(shape[-1]), math.prod(self.positions))
        if rest or channels > self.sizes[self._in_axis]:
            raise ValueError(
                f"input has {shape[-1]} features; allowed are up to {self.sizes[self._in_axis]} "
                f"channels with {math.prod(self.positions)} points each"
            )
        return channels

    def _first(self, input: Tensor, channels: int) -> Tensor:
        return input[..., : channels * math.prod(self.positions)]

    def _selected(self, input: Tensor, index: Tensor) -> Tensor:
        maps = input.reshape(*input.shape[:-1], -1, math.prod(self.positions))
        return maps.index_select(-2, index).flatten(-2)

    def _apply_weight(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input, weight.flatten(1), bias)

    def _points(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(input_shape[1:-1])
