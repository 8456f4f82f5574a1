"""The networks of the SpecNet paper, as plain torch modules.

Each is the spatial twin of its SpecNet: ``passband.convert(model, SpecNet(...))`` makes the SpecNet
of it, with the same layers, widths and kernels. The paper gives no widths for images of CIFAR's
size; these are the usual ones. Batch norm is removed in the paper, so the networks have none; those
whose names end in "-bn" are the twins that do.

Source: Guan et al., SpecNet (ICASSP 2021).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from passband.networks.initialise import kaiming_
from passband.networks.registry import register_model

Filters: TypeAlias = Sequence[tuple[int, int] | None]
"""Filters and kernel of each convolution; None is a pooling."""

LENET: Filters = ((20, 5), None, (50, 5), None)
ALEXNET: Filters = (
    (64, 5), None, (192, 5), None, (384, 3), (256, 3), (256, 3), None,
)  # fmt: skip
VGG16: Filters = (
    (64, 3), (64, 3), None, (128, 3), (128, 3), None, *[(256, 3)] * 3, None, *[(512, 3)] * 3, None,
    *[(512, 3)] * 3, None,
)  # fmt: skip


def _conv(inputs: int, outputs: int, kernel: int, batch_norm: bool = False) -> list[nn.Module]:
    """A convolution that keeps the map's size, perhaps batch norm, and ReLU."""
    norm: list[nn.Module] = [nn.BatchNorm2d(outputs)] if batch_norm else []
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), *norm, nn.ReLU()]


def _check_size(name: str, input_size: tuple[int, ...], least: int) -> None:
    if min(input_size) < least:
        raise ValueError(
            f"input_size is {input_size}; {name} takes images from {least} x {least} pixels up"
        )


def plain(
    name: str,
    filters: Filters,
    hidden: int | None = None,
    dropout: bool = False,
    batch_norm: bool = False,
    *,
    num_classes: int,
    in_channels: int,
    input_size: tuple[int, ...],
) -> nn.Module:
    """Convolutions that keep the map's size, with max pooling between them, and linear layers.

    Args:
        name: What an error calls it.
        filters: The convolutions and poolings.
        hidden: Features between two linear layers; None for one linear layer.
        dropout: Whether half of what the linear layers are given is dropped.
        batch_norm: Whether each convolution is followed by it.
        num_classes: Outputs.
        in_channels: Channels of the images.
        input_size: Points of the images.

    Raises:
        ValueError: The images are too small for the poolings.
    """
    shrinks = 2 ** sum(layer is None for layer in filters)
    _check_size(name, input_size, shrinks)
    layers: list[nn.Module] = []
    channels = in_channels
    for layer in filters:
        if layer is None:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += _conv(channels, *layer, batch_norm)
            channels = layer[0]
    layers += [nn.Flatten(), *([nn.Dropout()] if dropout else [])]
    features = channels * math.prod(side // shrinks for side in input_size)
    if hidden is not None:
        layers += [nn.Linear(features, hidden), nn.ReLU()]
        features = hidden
    model = nn.Sequential(*layers, nn.Linear(features, num_classes))
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


def _register(name: str, description: str, build: Callable[..., nn.Module], axes: int = 2) -> None:
    register_model(name, spatial_dims=axes, description=description)(build)


def _register_both(name: str, text: str, build: Callable[..., nn.Module], axes: int = 2) -> None:
    """A network, and that with the batch norm that the paper removes."""
    _register(name, f"{text}, SpecNet's and its twin", partial(build, batch_norm=False), axes)
    _register(f"{name}-bn", f"{text}, the twin with batch norm", partial(build, batch_norm=True),
              axes)  # fmt: skip


_register(
    "speclenet", "LeNet-5 that keeps map sizes, SpecNet's and its twin",
    partial(plain, "speclenet", LENET, 500),
)  # fmt: skip
_register(
    "specalexnet", "AlexNet for small images, SpecNet's and its twin",
    partial(plain, "specalexnet", ALEXNET, 1024, True),
)  # fmt: skip
_register_both("specvgg16", "VGG-16 for images from 32 x 32", partial(plain, "specvgg16", VGG16))
_register_both("specdensenet", "DenseNet-40, growth 12", densenet)
_register_both("specfcn", "3-layer FCN, time series", fcn, 1)
