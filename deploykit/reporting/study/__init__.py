"""The measurements that a report's questions take, made in one go on one machine."""

from deploykit.reporting.study.study import Finished, Study, run_study

__all__ = ["Finished", "Study", "run_study"]
