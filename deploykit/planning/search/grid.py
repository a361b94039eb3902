"""Coefficients that take a baseline to a budget.

References:
    Tan and Le, arXiv:1905.11946, section 3.3, equation 3 (alpha * beta^2 * gamma^2 = 2, each at least 1), and
    section 5, step 1 (a small grid at phi = 1).
"""

import math

from deploykit.networks.scaling import Coefficients
from deploykit.util.errors import DeployError

DEFAULT_STEP = 0.05
DEFAULT_TOLERANCE = 0.05  # EfficientNet's own 1.2 * 1.1^2 * 1.15^2 is 4 % under 2
LARGEST_BUDGET = 64.0
MOST_POINTS = 1_000_000  # looked at: more take minutes
_DIGITS = 6


def work_factor(coefficients: Coefficients) -> float:
    """How much more work the baseline becomes by the rule of thumb: alpha * beta^2 * gamma^2."""
    return coefficients.depth * coefficients.width**2 * coefficients.side**2


def coefficient_grid(
    budget: float, *, step: float = DEFAULT_STEP, tolerance: float = DEFAULT_TOLERANCE
) -> tuple[Coefficients, ...]:
    """Every alpha, beta, gamma of 1 and more, `step` apart, whose work factor is the budget's.

    Args:
        budget: multiple of the baseline's work, above 1.
        tolerance: by what fraction the work factor may be off.

    Raises:
        DeployError: a budget, step or tolerance that makes no grid, or an endless one.
    """
    if not 1 < budget <= LARGEST_BUDGET:
        raise DeployError(
            f"A budget of {budget:g} times the baseline's is not above 1, at most {LARGEST_BUDGET:g}.",
            code="invalid-budget",
            fix="give --budget 2x",
        )
    if not 0 < step <= 1:
        raise DeployError(
            f"A step of {step:g} makes no grid.",
            code="invalid-grid-step",
            fix=f"give --step {DEFAULT_STEP:g}",
        )
    if not 0 < tolerance < 1:
        raise DeployError(
            f"A tolerance of {tolerance:g} is not between 0 and 1.",
            code="invalid-tolerance",
            fix=f"give --tolerance {DEFAULT_TOLERANCE:g}",
        )
    most = budget * (1 + tolerance)
    depths, others = _line(most, step), _line(math.sqrt(most), step)
    if len(depths) * len(others) ** 2 > MOST_POINTS:
        raise DeployError(
            f"A step of {step:g} makes a grid of {len(depths) * len(others) ** 2} points.",
            code="invalid-grid-step",
            fix="give a larger --step",
        )
    grid = (
        Coefficients(depth=depth, width=width, side=side)
        for depth in depths
        for width in others
        for side in others
    )
    found = tuple(point for point in grid if abs(work_factor(point) / budget - 1) <= tolerance)
    if not found:
        raise DeployError(
            f"No point of the grid is within {tolerance:.3g} of {budget:g} times the work.",
            code="grid-empty",
            fix="give a smaller --step or a larger --tolerance",
        )
    return found


def _line(most: float, step: float) -> list[float]:
    return [round(1 + index * step, _DIGITS) for index in range(int((most - 1) / step + 1e-9) + 1)]
