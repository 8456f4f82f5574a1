"""Figures and HTML reports; they need the extra `report`."""

from passband.report.html import Picture, Report, Section, write_report
from passband.report.run_report import write_run_report

__all__ = ["Picture", "Report", "Section", "write_report", "write_run_report"]
