"""The INT8 options of build_engine and quantize_model."""

from dataclasses import dataclass
from pathlib import Path

from deploykit.data.preprocessing import NO_OVERRIDES, Overrides
from deploykit.quantize.float_fallback import DEFAULT_FLOAT_BUDGET
from deploykit.quantize.placement import POLICIES, Policy
from deploykit.util.errors import DeployError

DEFAULT_MAX_DROP = 0.5
"""Points of top-1 that the accuracy gate allows by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Options:
    """How to quantize a model to INT8.

    Attributes:
        data: Images to calibrate on. If neither data nor ranges is given, the newest ranges of the model in
            calibration/ are used.
        ranges: Ranges file of an earlier calibration.
        skip_bad: Skip unreadable images instead of stopping at the first.
        overrides: Preprocessing that differs from the model's.
        policy: What is placed in INT8; None for the compiler's default.
        include, exclude: Patterns of layers to add or remove, see placement.place.
        float_budget: Largest fraction of the model's multiply-accumulates that stays in float for accuracy,
            from 0 to 1. Only policies that put over 75 % in INT8 use it, see float_fallback.
        eval_data: Labelled images for the accuracy gate; None for no gate.
        max_drop: Points of top-1 that the gate allows; None for 0.5.
    """

    data: str | Path | None = None
    ranges: str | Path | None = None
    skip_bad: bool = False
    overrides: Overrides = NO_OVERRIDES
    policy: Policy | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    float_budget: float = DEFAULT_FLOAT_BUDGET
    eval_data: str | Path | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.policy not in (None, *POLICIES):
            raise DeployError(
                f"Unknown INT8 policy {self.policy}.",
                code="unknown-policy",
                fix=f"use one of {', '.join(POLICIES)}",
            )
        if not 0 <= self.float_budget <= 1:
            raise DeployError(
                f"A float budget of {100 * self.float_budget:g} % is outside the range from 0 to 100 %.",
                code="invalid-float-budget",
                fix="give, for example, --int8-float-budget 10",
            )
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise DeployError(
                f"An allowed drop of {self.max_drop:g} points is outside the range from 0 to 100.",
                code="invalid-max-drop",
                fix=f"give, for example, --max-drop {DEFAULT_MAX_DROP}",
            )
        if self.max_drop is not None and self.eval_data is None:
            raise DeployError(
                "--max-drop needs labelled images to measure top-1 on.",
                code="option-incomplete",
                fix="add --eval DIR, a folder with one subfolder per class",
            )
