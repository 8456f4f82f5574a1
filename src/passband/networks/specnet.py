"""The networks of the SpecNet paper, as plain torch modules.

Each is the spatial twin of its SpecNet: ``passband.convert(model, SpecNet(...))`` makes the SpecNet
of it, with the same layers, widths and kernels. The paper gives no widths for images of CIFAR's
size; these are the usual ones. Batch norm is removed in the paper, so the networks have none; those
whose names end in "-bn" are the twins that do.

Source: Guan et al., SpecNet (ICASSP 2021).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from passband.networks.initialise import kaiming_
from passband.networks.registry import register_model

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Filters of the convolutions; 0 is a pooling."""


def _conv(inputs: int, outputs: int, kernel: int, batch_norm: bool = False) -> list[nn.Module]:
    """A convolution that keeps the map's size, perhaps batch norm, and ReLU."""
    norm: list[nn.Module] = [nn.BatchNorm2d(outputs)] if batch_norm else []
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), *norm, nn.ReLU()]


def _check_size(name: str, input_size: tuple[int, ...], least: int) -> None:
    if min(input_size) < least:
        raise ValueError(
            f"input_size is {input_size}; {name} takes images from {least} x {least} pixels up"
        )


@register_model(
    "speclenet", spatial_dims=2, description="LeNet-5 that keeps map sizes, SpecNet's and its twin"
)
def speclenet(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Module:
    """Two 5 x 5 convolutions of 20 and 50 filters with pooling, and two linear layers.

    Raises:
        ValueError: A side of the images is under 4 pixels.
    """
    _check_size("speclenet", input_size, 4)
    points = (input_size[0] // 4) * (input_size[1] // 4)
    model = nn.Sequential(
        *_conv(in_channels, 20, 5),
        nn.MaxPool2d(2),
        *_conv(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * points, 500),
        nn.ReLU(),
        nn.Linear(500, num_classes),
    )
    kaiming_(model)
    return model


@register_model(
    "specalexnet", spatial_dims=2, description="AlexNet for small images, SpecNet's and its twin"
)
def specalexnet(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Module:
    """Five convolutions of 64, 192, 384, 256, 256 filters, three poolings, two linear layers.

    Raises:
        ValueError: A side of the images is under 8 pixels.
    """
    _check_size("specalexnet", input_size, 8)
    points = (input_size[0] // 8) * (input_size[1] // 8)
    model = nn.Sequential(
        *_conv(in_channels, 64, 5),
        nn.MaxPool2d(2),
        *_conv(64, 192, 5),
        nn.MaxPool2d(2),
        *_conv(192, 384, 3),
        *_conv(384, 256, 3),
        *_conv(256, 256, 3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(256 * points, 1024),
        nn.ReLU(),
        nn.Linear(1024, num_classes),
    )
    kaiming_(model)
    return model


def vgg16(
    batch_norm: bool,
    *,
    num_classes: int,
    in_channels: int,
    input_size: tuple[int, ...],
    widths: Sequence[int] = VGG16,
) -> nn.Module:
    """VGG-16 for small images: thirteen 3 x 3 convolutions, five poolings, one linear layer.

    Raises:
        ValueError: A side of the images is under 32 pixels.
    """
    _check_size("specvgg16", input_size, 32)
    layers: list[nn.Module] = []
    channels = in_channels
    for width in widths:
        if width:
            layers += _conv(channels, width, 3, batch_norm)
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    points = (input_size[0] // 32) * (input_size[1] // 32)
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * points, num_classes))
    kaiming_(model)
    return model


class DenseLayer(nn.Module):
    """A 3 x 3 convolution with ReLU, whose result is put beside its input.

    Args:
        channels: Of the input.
        growth: Channels that are added.
        batch_norm: Whether batch norm stands before the ReLU.
    """

    def __init__(self, channels: int, growth: int, batch_norm: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_conv(channels, growth, 3, batch_norm))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + growth, H, W)."""
        return torch.cat([x, self.layers(x)], 1)


def densenet(
    batch_norm: bool,
    *,
    num_classes: int,
    in_channels: int,
    input_size: tuple[int, ...],
    growth: int = 12,
    layers: Sequence[int] = (12, 12, 12),
) -> nn.Module:
    """DenseNet-40 with growth 12, each convolution before its activation.

    The order is not that of the original (batch norm, ReLU, convolution): without batch norm, what
    is concatenated has been activated once and for all, and is stored once.

    Raises:
        ValueError: A side of the images is under 4 pixels.
    """
    _check_size("specdensenet", input_size, 4)
    channels = 2 * growth
    modules: list[nn.Module] = _conv(in_channels, channels, 3, batch_norm)
    for block, count in enumerate(layers):
        if block:
            modules += [*_conv(channels, channels, 1, batch_norm), nn.AvgPool2d(2)]
        for _ in range(count):
            modules.append(DenseLayer(channels, growth, batch_norm))
            channels += growth
    model = nn.Sequential(
        *modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )
    kaiming_(model, "fan_in")
    return model


def fcn(
    batch_norm: bool, *, num_classes: int, in_channels: int, input_size: tuple[int, ...]
) -> nn.Module:
    """Convolutions of 128, 256, 128 filters, kernels 9, 5, 3, and the average over time.

    The first kernel of the original has 8 taps, which no padding keeps in their place.
    """
    modules: list[nn.Module] = []
    channels = in_channels
    for width, kernel in ((128, 9), (256, 5), (128, 3)):
        norm: list[nn.Module] = [nn.BatchNorm1d(width)] if batch_norm else []
        modules += [nn.Conv1d(channels, width, kernel, padding=kernel // 2), *norm, nn.ReLU()]
        channels = width
    model = nn.Sequential(
        *modules, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )
    kaiming_(model)
    return model


for _name, _axes, _text, _build in (
    ("specvgg16", 2, "VGG-16 for images from 32 x 32", vgg16),
    ("specdensenet", 2, "DenseNet-40, growth 12", densenet),
    ("specfcn", 1, "3-layer FCN, time series", fcn),
):
    _make: Callable[..., nn.Module] = _build
    register_model(_name, spatial_dims=_axes, description=f"{_text}, SpecNet's and its twin")(
        partial(_make, False)
    )
    register_model(
        f"{_name}-bn", spatial_dims=_axes, description=f"{_text}, the twin with batch norm"
    )(partial(_make, True))
