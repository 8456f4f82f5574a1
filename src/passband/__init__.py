"""Train, compress and run convolutional networks in the frequency domain."""

from passband.allocator import keep_freed_memory, return_freed_memory
from passband.chain import to_chain
from passband.config import BandLimit, FrequencyRegularization, SpecNet
from passband.convert import FrequencyScheduler, calibrate, convert, revert, set_compression
from passband.export import export_onnx
from passband.files import load, save
from passband.functional import band_limited_conv1d, band_limited_conv2d, band_limited_conv3d
from passband.measure.profile import profile
from passband.nn.band_limited import BandLimitedConv1d, BandLimitedConv2d, BandLimitedConv3d
from passband.nn.frequency import (
    FrequencyConv1d,
    FrequencyConv2d,
    FrequencyConvTranspose2d,
    FrequencyLinear,
)
from passband.nn.frequency_maps import FrequencyBatchNorm

__version__ = "0.1.0"

__all__ = [
    "BandLimit",
    "BandLimitedConv1d",
    "BandLimitedConv2d",
    "BandLimitedConv3d",
    "FrequencyBatchNorm",
    "FrequencyConv1d",
    "FrequencyConv2d",
    "FrequencyConvTranspose2d",
    "FrequencyLinear",
    "FrequencyRegularization",
    "FrequencyScheduler",
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
    "return_freed_memory",
    "revert",
    "save",
    "set_compression",
    "to_chain",
]
