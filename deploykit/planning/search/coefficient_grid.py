"""List the coefficients that scale a baseline to a compute budget.

References:
    Tan and Le, arXiv:1905.11946, section 3.3, equation 3 (alpha * beta^2 * gamma^2 = 2, each at least 1), and
    section 5, step 1 (a small grid at phi = 1).
"""

import math

from deploykit.networks.scaling import Coefficients
from deploykit.util.errors import DeployError

DEFAULT_STEP = 0.05
DEFAULT_TOLERANCE = 0.05  # EfficientNet's 1.2 * 1.1^2 * 1.15^2 is 4 % below 2
MAX_BUDGET = 64.0
MAX_GRID_POINTS = 1_000_000  # more take minutes
_DIGITS = 6


def compute_work_factor(coefficients: Coefficients) -> float:
    """Return by what factor the baseline's work grows, by the rule of thumb alpha * beta^2 * gamma^2."""
    return coefficients.depth * coefficients.width**2 * coefficients.side**2


def coefficient_grid(
    budget: float, *, step: float = DEFAULT_STEP, tolerance: float = DEFAULT_TOLERANCE
) -> tuple[Coefficients, ...]:
    """Return every combination of alpha, beta and gamma whose work factor is close to the budget.

    Args:
        budget: Multiple of the baseline's work, above 1 and at most 64.
        step: Distance between the values of each coefficient, which start at 1; above 0 and at most 1.
        tolerance: By what fraction the work factor may differ from the budget, between 0 and 1.

    Raises:
        DeployError: An argument is out of range, or the grid would be empty or too large.
    """
    if not 1 < budget <= MAX_BUDGET:
        raise DeployError(
            f"A budget of {budget:g} times the baseline is not above 1 and at most {MAX_BUDGET:g}.",
            code="invalid-budget",
            fix="give --budget 2x",
        )
    if not 0 < step <= 1:
        raise DeployError(
            f"A step of {step:g} is not above 0 and at most 1.",
            code="invalid-grid-step",
            fix=f"give --step {DEFAULT_STEP:g}",
        )
    if not 0 < tolerance < 1:
        raise DeployError(
            f"A tolerance of {tolerance:g} is not between 0 and 1.",
            code="invalid-tolerance",
            fix=f"give --tolerance {DEFAULT_TOLERANCE:g}",
        )
    largest = budget * (1 + tolerance)
    depths, others = _list_values(largest, step), _list_values(math.sqrt(largest), step)
    if len(depths) * len(others) ** 2 > MAX_GRID_POINTS:
        raise DeployError(
            f"A step of {step:g} makes a grid of {len(depths) * len(others) ** 2} points, which is too many.",
            code="invalid-grid-step",
            fix="give a larger --step",
        )
    grid = (
        Coefficients(depth=depth, width=width, side=side)
        for depth in depths
        for width in others
        for side in others
    )
    points = tuple(point for point in grid if abs(compute_work_factor(point) / budget - 1) <= tolerance)
    if not points:
        raise DeployError(
            f"No point of the grid has {budget:g} times the baseline's work, within {100 * tolerance:.3g} %.",
            code="grid-empty",
            fix="give a smaller --step or a larger --tolerance",
        )
    return points


def _list_values(largest: float, step: float) -> list[float]:
    return [round(1 + index * step, _DIGITS) for index in range(int((largest - 1) / step + 1e-9) + 1)]
