"""The measurements that a report's questions take, made in one go on one machine."""

from deploykit.study.run import run_study

__all__ = ["run_study"]
