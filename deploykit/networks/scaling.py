"""Compound scaling: from phi to depth, width and resolution.

References:
    Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
    ICML 2019, arXiv:1905.11946. Section 3.3 has the rule, the released models its rounded use.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from deploykit.util.errors import DeployError

Rule = Literal["published", "formula"]
RULES: tuple[str, ...] = get_args(Rule)
Axis = Literal["depth", "width", "side"]
AXES: tuple[Axis, ...] = get_args(Axis)

FORMULA_PHI_RANGE = (-8.0, 12.0)  # sides of 72 px to 1200 px; networks beyond these have no known use
SIDE_STEP_PX = 4  # every published side is a multiple of 4
MIN_SIDE_PX, MAX_SIDE_PX = 32, 4096  # networks halve their input five times; more exceeds any GPU's memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How far a baseline network is scaled.

    Attributes:
        depth: Multiplies blocks per stage.
        width: Multiplies channels.
        side_px: Input height and width, pixels.
    """

    depth: float
    width: float
    side_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """The bases that the formula raises to the power of phi; by default EfficientNet's, by grid search.

    References:
        arXiv:1905.11946, section 5, step 1.
    """

    depth: float = 1.2
    width: float = 1.1
    side: float = 1.15


# B0..B7 as released: (width, depth, side). Their sides are not the formula's: B3 is 300 px, not 340.
# Source: efficientnet_params in the reference implementation, tensorflow/tpu, efficientnet_builder.py.
PUBLISHED_SCALES: tuple[Scale, ...] = tuple(
    Scale(width=width, depth=depth, side_px=side_px)
    for width, depth, side_px in (
        (1.0, 1.0, 224),
        (1.0, 1.1, 240),
        (1.1, 1.2, 260),
        (1.2, 1.4, 300),
        (1.4, 1.8, 380),
        (1.6, 2.2, 456),
        (1.8, 2.6, 528),
        (2.0, 3.1, 600),
    )
)
BASE = PUBLISHED_SCALES[0]
PUBLISHED_PHI_RANGE = (0.0, float(len(PUBLISHED_SCALES) - 1))


def scale_for(
    phi: float,
    *,
    rule: Rule = "published",
    ladder: Sequence[Scale] = PUBLISHED_SCALES,
    coefficients: Coefficients = Coefficients(),  # frozen
) -> Scale:
    """Return the scale for a compound coefficient, by default EfficientNet's.

    Args:
        phi: Compound coefficient: 0 to the ladder's last index under `published`, -8 to 12 under `formula`.
        rule: `published` gives the ladder's members at integers and interpolates log-linearly between them;
            `formula` multiplies the baseline by depth^phi, width^phi and side^phi.
        ladder: The published members; the first is the baseline.
        coefficients: The formula's depth, width and side.

    Raises:
        DeployError: phi is outside the rule's range, or a coefficient is not positive and finite.
    """
    low, high = (0.0, len(ladder) - 1.0) if rule == "published" else FORMULA_PHI_RANGE
    if not low <= phi <= high:  # false for NaN too
        formula_allows = rule == "published" and FORMULA_PHI_RANGE[0] <= phi <= FORMULA_PHI_RANGE[1]
        raise DeployError(
            f"phi must be between {low:g} and {high:g} under the {rule} rule, not {phi!r}.",
            code="invalid-phi",
            fix="add --rule formula, which allows phi outside this range"
            if formula_allows
            else f"give --phi from {low:g} to {high:g}",
        )
    return (
        _scale_by_ladder(phi, ladder)
        if rule == "published"
        else _scale_by_formula(phi, ladder[0], coefficients)
    )


def stretched_axis(scale: Scale, base: Scale = BASE) -> Axis | None:
    """Return the axis along which a scale differs from the baseline, if it is exactly one."""
    differs: dict[Axis, bool] = {
        "depth": scale.depth != base.depth,
        "width": scale.width != base.width,
        "side": scale.side_px != base.side_px,
    }
    axes = [axis for axis in AXES if differs[axis]]
    return axes[0] if len(axes) == 1 else None


def format_phi(phi: float) -> str:
    """Format phi as people write it, `3` or `2.5`; different values give different texts."""
    return repr(phi + 0.0).removesuffix(".0")  # + 0.0: -0 is 0


def _scale_by_formula(phi: float, base: Scale, coefficients: Coefficients) -> Scale:
    factors = (coefficients.depth, coefficients.width, coefficients.side)
    if not all(0 < factor < math.inf for factor in factors):
        raise DeployError(
            f"--alpha, --beta and --gamma must be positive and finite, not {factors}.",
            code="invalid-coefficients",
            fix="give --alpha 1.2 --beta 1.1 --gamma 1.15",
        )
    return Scale(
        depth=base.depth * coefficients.depth**phi,
        width=base.width * coefficients.width**phi,
        side_px=_round_side_px(base.side_px * coefficients.side**phi),
    )


def _scale_by_ladder(phi: float, ladder: Sequence[Scale]) -> Scale:
    below = ladder[math.floor(phi)]
    above = ladder[math.ceil(phi)]
    fraction = phi - math.floor(phi)
    if fraction == 0:
        return below
    return Scale(
        depth=_log_interpolate(below.depth, above.depth, fraction),
        width=_log_interpolate(below.width, above.width, fraction),
        side_px=_round_side_px(_log_interpolate(below.side_px, above.side_px, fraction)),
    )


def _log_interpolate(low: float, high: float, fraction: float) -> float:
    return float(low * (high / low) ** fraction)


def _round_side_px(side_px: float) -> int:
    return SIDE_STEP_PX * round(side_px / SIDE_STEP_PX)
