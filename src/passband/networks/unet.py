"""UNet: segmentation by a network that shrinks its maps and grows them again."""

import torch
from torch import Tensor, nn

from passband.networks.initialise import kaiming_
from passband.networks.registry import register_model

_LEVELS = 4  # times that the maps are halved


def _double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Double convolutions on five sizes of map, down and up again, with concatenated skips.

    Args:
        num_classes: Classes of a pixel.
        in_channels: Channels of the image.
        width: Channels at full size; each halving doubles them.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(_LEVELS + 1)]
        self.first = _double_convolution(in_channels, width)
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(
            _double_convolution(widths[level], widths[level + 1]) for level in range(_LEVELS)
        )
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(widths[level + 1], widths[level], 2, 2)
            for level in reversed(range(_LEVELS))
        )
        self.up = nn.ModuleList(
            _double_convolution(2 * widths[level], widths[level])
            for level in reversed(range(_LEVELS))
        )
        self.last = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes, H, W)."""
        skips = [self.first(x)]
        for down in self.down:
            skips.append(down(self.pool(skips[-1])))
        y = skips.pop()
        for grow, up in zip(self.grow, self.up, strict=True):
            y = up(torch.cat([skips.pop(), grow(y)], 1))
        scores: Tensor = self.last(y)
        return scores


def _unet(num_classes: int, in_channels: int, input_size: tuple[int, ...], width: int) -> UNet:
    step = 2**_LEVELS
    if any(size % step for size in input_size):
        raise ValueError(
            f"input_size is {input_size}; unet halves its maps {_LEVELS} times, so that sides must "
            f"be multiples of {step}; use image_size for a data set of images"
        )
    model = UNet(num_classes, in_channels, width)
    kaiming_(model)
    return model


@register_model(
    "unet", spatial_dims=2, description="UNet for segmentation, 64 to 1024 channels, sides x 16"
)
def unet(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Module:
    """UNet with batch norm and same padding: 31,036,546 parameters for 1 channel and 2 classes.

    Source: Ronneberger et al., U-Net: convolutional networks for biomedical image segmentation
    (MICCAI 2015).
    """
    return _unet(num_classes, in_channels, input_size, 64)


@register_model(
    "unet16", spatial_dims=2, description="the same with a quarter of the channels: 16 to 256"
)
def unet16(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Module:
    """UNet of 16 to 256 channels, for machines without an accelerator."""
    return _unet(num_classes, in_channels, input_size, 16)
