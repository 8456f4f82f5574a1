"""Frequency regularization: conversion of whole models, and the schedule that shrinks them."""

from passband.convert.frequency.handler import FrequencyHandler
from passband.convert.frequency.network import FrequencyNetwork
from passband.convert.frequency.report import FrequencyReport
from passband.convert.frequency.scheduler import FrequencyScheduler

__all__ = ["FrequencyHandler", "FrequencyNetwork", "FrequencyReport", "FrequencyScheduler"]
