"""VGG networks in their CIFAR form: average pooling, and one linear layer."""

from collections.abc import Sequence

from torch import nn

from passband.networks.initialise import kaiming_
from passband.networks.registry import register_model

_STAGES = (64, 128, 256, 512, 512)
_POOLED = 3  # stages that end with pooling


def vgg(depths: Sequence[int], num_classes: int, in_channels: int) -> nn.Sequential:
    """3 x 3 convolutions with batch norm and ReLU in five stages, the first three pooled.

    Args:
        depths: Convolutions of each stage.
        num_classes: Outputs.
        in_channels: Channels of the input.
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for stage, (width, depth) in enumerate(zip(_STAGES, depths, strict=True)):
        for _ in range(depth):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        if stage < _POOLED:
            layers.append(nn.AvgPool2d(2))
    model = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )
    kaiming_(model)
    return model


def _check_size(name: str, input_size: tuple[int, ...]) -> None:
    if min(input_size) < 2**_POOLED:
        raise ValueError(
            f"input_size is {input_size}; {name} halves its maps {_POOLED} times and takes images "
            f"from {2**_POOLED} x {2**_POOLED} pixels up"
        )


@register_model("vgg8", spatial_dims=2, description="VGG with 5 convolutions, images from 8 x 8 up")
def vgg8(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Module:
    """Five convolutions of 64, 128, 256, 512, 512 channels: 3,917,386 parameters for CIFAR-10.

    96 million multiplications for an image of 32 x 32.

    Source: Tian et al., Contrastive representation distillation (ICLR 2020), with the average
    pooling of Zhao, Dong, Basu (2024).
    """
    _check_size("vgg8", input_size)
    return vgg((1, 1, 1, 1, 1), num_classes, in_channels)


@register_model(
    "vgg13", spatial_dims=2, description="VGG with 10 convolutions, images from 8 x 8 up"
)
def vgg13(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Module:
    """Ten convolutions, two per stage: 9,413,066 parameters for CIFAR-10.

    Source: as `vgg8`.
    """
    _check_size("vgg13", input_size)
    return vgg((2, 2, 2, 2, 2), num_classes, in_channels)
