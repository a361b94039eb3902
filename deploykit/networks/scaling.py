"""Compound scaling: phi -> how deep, how wide and at what resolution.

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

FORMULA_PHI_RANGE = (-8.0, 12.0)  # 72 px to 1200 px: beyond, no such network has been of use
SIDE_STEP_PX = 4  # every published side is a multiple of 4
MIN_SIDE_PX, MAX_SIDE_PX = 32, 4096  # the network halves its input five times; more fits no memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How far a baseline network is stretched.

    Attributes:
        depth: multiplies blocks per stage.
        width: multiplies channels.
        side_px: input height and width, pixels.
    """

    depth: float
    width: float
    side_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What the formula raises to the power of phi; EfficientNet's as its grid search found them at phi = 1.

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
    """The scale of one member of a family, EfficientNet where nobody says.

    Args:
        phi: compound coefficient. `published`: 0 to the ladder's last. `formula`: -8 to 12.
        rule: `published` gives the ladder's members at integers and interpolates log-linearly between them;
            `formula` is the baseline times depth^phi, width^phi and side^phi.
        ladder: the published members; the first is the baseline.

    Raises:
        DeployError: phi is not a number in the rule's range, or a coefficient is not above 0.
    """
    low, high = (0.0, len(ladder) - 1.0) if rule == "published" else FORMULA_PHI_RANGE
    if not low <= phi <= high:  # false for NaN too
        outside = rule == "published" and FORMULA_PHI_RANGE[0] <= phi <= FORMULA_PHI_RANGE[1]
        raise DeployError(
            f"phi must be between {low:g} and {high:g} under the {rule} rule, not {phi!r}.",
            code="invalid-phi",
            fix="add --rule formula for a phi out there"
            if outside
            else f"give --phi from {low:g} to {high:g}",
        )
    return _published(phi, ladder) if rule == "published" else _formula(phi, ladder[0], coefficients)


def stretched_axis(scale: Scale, base: Scale = BASE) -> Axis | None:
    """The one axis that the baseline was stretched along; None where it was none, or several."""
    stretched: dict[Axis, bool] = {
        "depth": scale.depth != base.depth,
        "width": scale.width != base.width,
        "side": scale.side_px != base.side_px,
    }
    moved = [axis for axis in AXES if stretched[axis]]
    return moved[0] if len(moved) == 1 else None


def format_phi(phi: float) -> str:
    """phi as people write it: `3`, `2.5`; two that differ have two labels."""
    return repr(phi + 0.0).removesuffix(".0")  # + 0.0: -0 is 0


def _formula(phi: float, base: Scale, coefficients: Coefficients) -> Scale:
    factors = (coefficients.depth, coefficients.width, coefficients.side)
    if not all(0 < factor < math.inf for factor in factors):
        raise DeployError(
            f"Coefficients are above 0 and finite, not {factors}.",
            code="invalid-coefficients",
            fix="give --alpha 1.2 --beta 1.1 --gamma 1.15",
        )
    return Scale(
        depth=base.depth * coefficients.depth**phi,
        width=base.width * coefficients.width**phi,
        side_px=_round_side_px(base.side_px * coefficients.side**phi),
    )


def _published(phi: float, ladder: Sequence[Scale]) -> Scale:
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
