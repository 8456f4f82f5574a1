"""Train, compress and run convolutional networks in the frequency domain."""

from passband.allocator import keep_freed_memory
from passband.config import BandLimit, SpecNet
from passband.convert import calibrate, convert, revert, set_compression
from passband.export import export_onnx
from passband.files import load, save
from passband.functional import band_limited_conv1d, band_limited_conv2d, band_limited_conv3d
from passband.measure.profile import profile
from passband.nn.band_limited import BandLimitedConv1d, BandLimitedConv2d, BandLimitedConv3d

__version__ = "0.1.0"

__all__ = [
    "BandLimit",
    "BandLimitedConv1d",
    "BandLimitedConv2d",
    "BandLimitedConv3d",
    "SpecNet",
    "band_limited_conv1d",
    "band_limited_conv2d",
    "band_limited_conv3d",
    "calibrate",
    "convert",
    "export_onnx",
    "keep_freed_memory",
    "load",
    "profile",
    "revert",
    "save",
    "set_compression",
]
