"""MobileNetV2 in its CIFAR form."""

from torch import Tensor, nn

from passband.networks.initialise import kaiming_
from passband.networks.registry import register_model

# expansion, channels, blocks, stride of the first; the first two stages do not halve small images
_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
_STEM, _HEAD = 32, 1280


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class InvertedResidual(nn.Module):
    """1 x 1 to more channels, 3 x 3 depthwise, 1 x 1 to few; the input is added where it fits.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        expansion: How many times more channels there are between.
        stride: Stride of the depthwise convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * in_channels
        expand = [*_convolution(in_channels, inner, 1), nn.ReLU6()] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            *_convolution(inner, inner, 3, stride, groups=inner),
            nn.ReLU6(),
            *_convolution(inner, out_channels, 1),
        )
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        y: Tensor = self.body(x)
        return x + y if self.adds else y


@register_model(
    "mobilenetv2", spatial_dims=2, description="MobileNetV2 in CIFAR form, small images"
)
def mobilenetv2(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Module:
    """MobileNetV2 that halves its maps three times: 2,236,682 parameters for CIFAR-10.

    Source: Sandler et al., MobileNetV2: inverted residuals and linear bottlenecks (CVPR 2018).
    """
    layers: list[nn.Module] = [*_convolution(in_channels, _STEM, 3), nn.ReLU6()]
    channels = _STEM
    for expansion, width, blocks, stride in _STAGES:
        for block in range(blocks):
            layers.append(InvertedResidual(channels, width, expansion, stride if block == 0 else 1))
            channels = width
    model = nn.Sequential(
        *layers, *_convolution(channels, _HEAD, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(_HEAD, num_classes),
    )  # fmt: skip
    kaiming_(model)
    return model
