"""Residual networks in their CIFAR form: a 3 x 3 stem and no max pooling."""

from collections.abc import Sequence

from torch import Tensor, nn

from passband.networks.initialise import kaiming_
from passband.networks.registry import register_model


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and the input added before the last ReLU.

    Where the size or the channels change, the input passes a strided 1 x 1 convolution with batch
    norm (option B of the paper).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


def resnet(
    widths: Sequence[int], blocks: Sequence[int], num_classes: int, in_channels: int
) -> nn.Sequential:
    """A CIFAR ResNet; every stage after the first halves the map.

    Args:
        widths: Channels of each stage; the stem has those of the first.
        blocks: Blocks of each stage.
        num_classes: Outputs.
        in_channels: Channels of the input.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    channels = widths[0]
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(count):
            layers.append(BasicBlock(channels, width, 2 if stage and not block else 1))
            channels = width
    model = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )
    kaiming_(model)
    return model


@register_model(
    "resnet8", spatial_dims=2, description="ResNet-8 of 16, 32, 64 channels, small images"
)
def resnet8(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Module:
    """ResNet-8, the smallest of the paper's CIFAR family: 78,042 parameters for CIFAR-10.

    Source: He et al., Deep residual learning for image recognition (CVPR 2016), section 4.2.
    """
    return resnet((16, 32, 64), (1, 1, 1), num_classes, in_channels)


@register_model(
    "resnet20", spatial_dims=2, description="ResNet-20 of 16, 32, 64 channels, small images"
)
def resnet20(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Module:
    """ResNet-20, with strided 1 x 1 convolutions as shortcuts: 272,474 parameters for CIFAR-10.

    Source: as `resnet8`.
    """
    return resnet((16, 32, 64), (3, 3, 3), num_classes, in_channels)


@register_model(
    "resnet56", spatial_dims=2, description="ResNet-56 of 16, 32, 64 channels, small images"
)
def resnet56(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Module:
    """ResNet-56, with strided 1 x 1 convolutions as shortcuts: 855,770 parameters for CIFAR-10.

    Source: as `resnet8`.
    """
    return resnet((16, 32, 64), (9, 9, 9), num_classes, in_channels)


@register_model("resnet18", spatial_dims=2, description="ResNet-18 in CIFAR form, small images")
def resnet18(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Module:
    """ResNet-18 with a 3 x 3 stem and no max pooling: 11,173,962 parameters for CIFAR-10.

    Source: He et al., Deep residual learning for image recognition (CVPR 2016), table 1; this form
    is the one of Dziedzic et al., ICML 2019.
    """
    return resnet((64, 128, 256, 512), (2, 2, 2, 2), num_classes, in_channels)
