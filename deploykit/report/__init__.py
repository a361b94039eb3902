"""One HTML page of what records show."""

from deploykit.report.page import write_report

__all__ = ["write_report"]
