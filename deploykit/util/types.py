"""Words that many modules share; it imports nothing, so that predicting needs no array library."""

from typing import Literal

Precision = Literal["fp32", "fp16", "int8"]
FAMILY_NAME = r"^[a-z0-9_-]+$"
"""What a family may be called: the name is part of files' names."""
