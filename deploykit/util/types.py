"""Shared type aliases, import-free so that the cost model does not load NumPy."""

from typing import Literal

Precision = Literal["fp32", "fp16", "int8"]

FAMILY_NAME = r"^[a-z0-9_-]+$"
"""Pattern of a family's name, which is part of file names."""
