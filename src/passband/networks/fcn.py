"""The fully convolutional network for time series."""

from torch import nn

from passband.networks.initialise import kaiming_
from passband.networks.registry import register_model


@register_model(
    "fcn", spatial_dims=1, description="3-layer FCN of 128, 256, 128 filters, time series"
)
def fcn(*, num_classes: int, in_channels: int, input_size: tuple[int, ...]) -> nn.Sequential:
    """Three convolutions with batch norm and ReLU, and the average over time.

    Kernels 8, 5, 3; 128, 256, 128 filters. Every layer keeps the length L. An even kernel cannot be
    padded alike on both sides: the first gets 3 zeros before and 4 after, as padding "same" does.

    Source: Wang et al., Time series classification from scratch with deep neural networks (IJCNN
    2017).
    """
    model = nn.Sequential(
        nn.ZeroPad1d((3, 4)),
        nn.Conv1d(in_channels, 128, 8, bias=False),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Conv1d(128, 256, 5, padding=2, bias=False),
        nn.BatchNorm1d(256),
        nn.ReLU(),
        nn.Conv1d(256, 128, 3, padding=1, bias=False),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(128, num_classes),
    )
    kaiming_(model)
    return model
