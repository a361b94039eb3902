"""The part of an INT8 plan that engine manifests keep."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from deploykit.quantize.placement import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Summary:
    """Which part of a model is in INT8. The field names are those of the manifest file.

    Attributes:
        policy: Of the placement.
        method: How ranges were read off the statistics.
        share: Fraction of the multiply-accumulates in INT8.
        left_out: Nodes of the float fallback.
        excluded: Blocks that the accuracy gate moved to float.
        drop: Drop of top-1 that the gate measured, points; None without a gate.
    """

    policy: Policy
    method: str
    share: Annotated[float, Meta(ge=0, le=1)]
    left_out: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    drop: float | None = None
