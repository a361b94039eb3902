"""Write one HTML page of what records show."""

from deploykit.reporting.report.page import write_report

__all__ = ["write_report"]
