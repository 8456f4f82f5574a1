"""Conversion of models, one verb for every method: `convert` and `revert`."""

from passband.convert.apply import convert, revert
from passband.convert.band_limit import calibrate, set_compression
from passband.convert.convolutions import Block, LayerHandler, Reason
from passband.convert.frequency import FrequencyNetwork, FrequencyReport, FrequencyScheduler
from passband.convert.handler import Handler, handlers, register_handler
from passband.convert.report import BlockReport, ConversionReport, LayerReport, Report
from passband.convert.specnet import calibrate_threshold

__all__ = [
    "Block",
    "BlockReport",
    "ConversionReport",
    "FrequencyNetwork",
    "FrequencyReport",
    "FrequencyScheduler",
    "Handler",
    "LayerHandler",
    "LayerReport",
    "Reason",
    "Report",
    "calibrate",
    "calibrate_threshold",
    "convert",
    "handlers",
    "register_handler",
    "revert",
    "set_compression",
]
