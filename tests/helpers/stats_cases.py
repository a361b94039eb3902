"""Samples of known distributions, to check how often intervals contain the truth."""

import math
from collections.abc import Callable

import numpy as np

TRIALS = 400


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def coverage(
    draw: Callable[[np.random.Generator], np.ndarray],
    truth: float,
    estimate: Callable,
    *,
    trials: int = TRIALS,
) -> float:
    """Return the share of trials whose interval contains the truth."""
    random = generator(1)
    found = [estimate(draw(random)) for _ in range(trials)]
    return float(np.mean([each.low <= truth <= each.high for each in found]))


def wandering(random: np.random.Generator, *, memory: float = 0.6, count: int = 1000) -> np.ndarray:
    """Return samples whose neighbours are correlated, as on machines whose clock changes."""
    steps, values = random.normal(0, 1, count), np.empty(count)
    values[0] = steps[0] / math.sqrt(1 - memory**2)
    for at in range(1, count):
        values[at] = memory * values[at - 1] + steps[at]
    return 20 + values
