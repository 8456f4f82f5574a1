"""Densely connected networks in their CIFAR form."""

import torch
from torch import Tensor, nn

from passband.networks.initialise import kaiming_
from passband.networks.registry import register_model

_GROWTH = 12


class DenseLayer(nn.Module):
    """A 1 x 1 and a 3 x 3 convolution after batch norm and ReLU, their result appended.

    Args:
        in_channels: Channels of the input.
        growth: Channels that are appended.
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, in_channels + growth, H, W)."""
        return torch.cat([x, self.body(x)], 1)


@register_model(
    "densenet121", spatial_dims=2, description="DenseNet-121 with growth 12, images from 8 x 8 up"
)
def densenet121(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Module:
    """DenseNet-121 with growth 12 and a 3 x 3 stem: 1,000,618 parameters for CIFAR-10.

    Source: Huang et al., Densely connected convolutional networks (CVPR 2017); this form is the one
    of Dziedzic et al., ICML 2019.
    """
    if min(input_size) < 8:
        raise ValueError(
            f"input_size is {input_size}; densenet121 halves its maps three times and takes images "
            "from 8 x 8 pixels up"
        )
    channels = 2 * _GROWTH
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)]
    for stage, depth in enumerate((6, 12, 24, 16)):
        for _ in range(depth):
            layers.append(DenseLayer(channels, _GROWTH))
            channels += _GROWTH
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if stage < 3:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    model = nn.Sequential(*layers)
    kaiming_(model)
    return model
