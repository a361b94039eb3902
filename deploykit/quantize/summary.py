"""What of a model is in INT8, and how that came about; carried in engine manifests."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from deploykit.quantize.placement import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Summary:
    """What of a model is in INT8, as manifests keep it.

    Attributes:
        policy: of the placement.
        method: by which the ranges were read off.
        share: of the multiply-accumulates that are in INT8.
        left_out: nodes left in float since they cost most accuracy for their work.
        excluded: blocks left in float by the accuracy gate.
        drop: of top-1 in points, as the gate measured it; None without a gate.
    """

    policy: Policy
    method: str
    share: Annotated[float, Meta(ge=0, le=1)]
    left_out: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    drop: float | None = None
