"""Conversion of models, one verb for every method: `convert` and `revert`."""

from passband.convert.apply import convert, revert
from passband.convert.band_limit import calibrate, set_compression
from passband.convert.frequency import FrequencyNetwork, FrequencyReport, FrequencyScheduler
from passband.convert.handler import Handler, Reason, register_handler
from passband.convert.report import LayerReport, Report

__all__ = [
    "FrequencyNetwork",
    "FrequencyReport",
    "FrequencyScheduler",
    "Handler",
    "LayerReport",
    "Reason",
    "Report",
    "calibrate",
    "convert",
    "register_handler",
    "revert",
    "set_compression",
]
