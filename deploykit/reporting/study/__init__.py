"""Make every measurement that a report needs, in one run on one machine."""

from deploykit.reporting.study.study import FinishedRecord, Study, run_study

__all__ = ["FinishedRecord", "Study", "run_study"]
