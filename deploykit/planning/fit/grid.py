"""Which phis and batches are looked at."""

import math
from collections.abc import Callable, Sequence

from deploykit.util.errors import DeployError

MIN_PHI_STEP = 0.05  # 141 networks and more: still answered within a second
MAX_BATCH = 65536
BATCHES = tuple(2**power for power in range(9))
"""Tried where the batch is free: 1 to 256. Beyond, throughput hardly grows and latency doubles."""


def phi_grid(step: float, phi_range: tuple[float, float]) -> tuple[float, ...]:
    """The range in steps, both ends among them; with steps below 1 the published members, the integers, too.

    Raises:
        DeployError: no such step fits in.
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


def at_the_edge(grid: Sequence[float], looked_at: Sequence[float], fitting: float | None) -> list[float]:
    """The phis of a fine grid above the largest fitting one of those looked at, up to the next of these."""
    if fitting is None:
        return []
    above = min((phi for phi in looked_at if phi > fitting), default=math.inf)
    return [phi for phi in grid if fitting < phi < above]


def bisect_largest(phis: Sequence[float], fits: Callable[[float], bool]) -> None:
    """Asks about as few phis as tell which is the largest that fits, latency rising with phi."""
    low, high = 0, len(phis) - 1
    while low <= high:
        middle = (low + high) // 2
        if fits(phis[middle]):
            low = middle + 1
        else:
            high = middle - 1
