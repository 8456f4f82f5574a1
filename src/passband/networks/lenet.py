"""LeNet: two convolutions and two linear layers, for small images."""

from torch import nn

from passband.networks.initialise import kaiming_
from passband.networks.registry import register_model


@register_model(
    "lenet5", spatial_dims=2, description="LeNet-5 with 20 and 50 filters, images from 4 x 4 up"
)
def lenet5(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Sequential:
    """LeNet-5 as the compression literature uses it: 431,080 parameters for 1 x 28 x 28 digits.

    Two 5 x 5 convolutions (20 and 50 filters), each with ReLU and 2 x 2 max pooling, a linear layer
    of 500 with ReLU, and the scores. From 16 x 16 pixels the convolutions are unpadded, as in the
    original. Smaller images would shrink to nothing, so there both are padded by 2 and keep the
    size: 8 x 8 digits reach the linear layer as 2 x 2 maps.

    Source: LeCun et al., Gradient-based learning applied to document recognition (1998); these
    widths: Han et al., Deep compression (ICLR 2016).

    Raises:
        ValueError: A side of the images is under 4 pixels.
    """
    if min(input_size) < 4:
        raise ValueError(f"input_size is {input_size}; lenet5 takes images from 4 x 4 pixels up")
    padding = 0 if min(input_size) >= 16 else 2
    height, width = (_pooled(_pooled(size, padding), padding) for size in input_size)
    model = nn.Sequential(
        nn.Conv2d(in_channels, 20, 5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * height * width, 500),
        nn.ReLU(),
        nn.Linear(500, num_classes),
    )
    kaiming_(model)
    return model


def _pooled(size: int, padding: int) -> int:
    """Size after a 5 x 5 convolution and 2 x 2 pooling."""
    return (size + 2 * padding - 4) // 2
