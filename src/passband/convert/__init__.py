"""Conversion of models, one verb for every method: `convert` and `revert`."""

from passband.convert.apply import convert, revert
from passband.convert.band_limit import calibrate, set_compression
from passband.convert.frequency import FrequencyNetwork, FrequencyReport, FrequencyScheduler
from passband.convert.handler import Block, Handler, Reason, register_handler
from passband.convert.report import BlockReport, LayerReport, Report
from passband.convert.specnet import calibrate_threshold

__all__ = [
    "Block",
    "BlockReport",
    "FrequencyNetwork",
    "FrequencyReport",
    "FrequencyScheduler",
    "Handler",
    "LayerReport",
    "Reason",
    "Report",
    "calibrate",
    "calibrate_threshold",
    "convert",
    "register_handler",
    "revert",
    "set_compression",
]
