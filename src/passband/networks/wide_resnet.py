"""Wide residual networks: batch norm and ReLU before each convolution."""

from torch import Tensor, nn

from passband.networks.initialise import kaiming_
from passband.networks.registry import register_model


class PreactivatedBlock(nn.Module):
    """Two 3 x 3 convolutions, each after batch norm and ReLU, and the input added.

    Where the channels change, the activated input passes a strided 1 x 1 convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        active = self.relu1(self.norm1(x))
        y: Tensor = self.conv2(self.relu2(self.norm2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))


@register_model("wrn-40-2", spatial_dims=2, description="Wide ResNet-40-2, small images")
def wrn_40_2(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Module:
    """40 layers of twice the channels of a ResNet: 2,243,546 parameters for CIFAR-10.

    Source: Zagoruyko and Komodakis, Wide residual networks (BMVC 2016).
    """
    layers: list[nn.Module] = [nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)]
    channels = 16
    for stage, width in enumerate((32, 64, 128)):
        for block in range(6):
            layers.append(PreactivatedBlock(channels, width, 2 if stage and not block else 1))
            channels = width
    model = nn.Sequential(
        *layers, nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(channels, num_classes),
    )  # fmt: skip
    kaiming_(model)
    return model
