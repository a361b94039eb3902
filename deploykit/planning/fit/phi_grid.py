"""Which phis and batch sizes a fit considers."""

import math
from collections.abc import Callable, Sequence

from deploykit.util.errors import DeployError

MIN_PHI_STEP = 0.05  # 141 networks or more, which still takes less than a second
MAX_FIT_BATCH = 65536
FREE_BATCHES = tuple(2**power for power in range(9))
"""Batch sizes to try when the batch is free. Beyond 256, throughput hardly grows and latency doubles."""


def phi_grid(step: float, phi_range: tuple[float, float]) -> tuple[float, ...]:
    """Return the phis of a range in steps, including both ends.

    With steps below 1 the grid includes the published members as well, which are the integers.

    Raises:
        DeployError: The step is too small, or larger than the range.
    """
    low, high = phi_range
    if not MIN_PHI_STEP <= step <= high:
        raise DeployError(
            f"A phi step of {step:g} is not between {MIN_PHI_STEP:g} and {high:g}.",
            code="invalid-phi-step",
            fix="give --phi-step 0.5",
        )
    steps = (round(low + index * step, 6) for index in range(int((high - low) / step + 1e-9) + 1))
    published = range(math.ceil(low), math.floor(high) + 1) if step < 1 else ()
    return tuple(sorted({*steps, *map(float, published), high}))


def phis_between(grid: Sequence[float], tried: Sequence[float], fitting: float | None) -> list[float]:
    """Return the phis of a fine grid between the largest fitting one and the next of those tried."""
    if fitting is None:
        return []
    above = min((phi for phi in tried if phi > fitting), default=math.inf)
    return [phi for phi in grid if fitting < phi < above]


def bisect_largest(phis: Sequence[float], fits: Callable[[float], bool]) -> None:
    """Call `fits` for as few phis as it takes to find the largest that fits.

    Args:
        phis: In rising order; latency is assumed to rise with phi.
        fits: Remembers its answers, so that nothing is returned here.
    """
    low, high = 0, len(phis) - 1
    while low <= high:
        middle = (low + high) // 2
        if fits(phis[middle]):
            low = middle + 1
        else:
            high = middle - 1
