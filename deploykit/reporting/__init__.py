"""Measure a family for a report, and write the report."""
