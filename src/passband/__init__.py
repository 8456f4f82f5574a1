"""Train, compress and run convolutional networks in the frequency domain."""

from passband.config import BandLimit
from passband.functional import band_limited_conv1d, band_limited_conv2d, band_limited_conv3d
from passband.nn.band_limited import BandLimitedConv1d, BandLimitedConv2d, BandLimitedConv3d

__version__ = "0.1.0"

__all__ = [
    "BandLimit",
    "BandLimitedConv1d",
    "BandLimitedConv2d",
    "BandLimitedConv3d",
    "band_limited_conv1d",
    "band_limited_conv2d",
    "band_limited_conv3d",
]
