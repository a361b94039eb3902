"""Confidence intervals of proportions, and of the difference of two paired ones."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from deploykit.stats.estimate import CONFIDENCE

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_MIN_IMAGES_FOR_CHANCE = 30  # with fewer images, any accuracy could be chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A fraction, or the difference of two, with its 95 % confidence interval for images of this kind."""

    value: float
    low: float
    high: float


def is_within_chance(top1: Proportion, *, images: int, classes: int) -> bool:
    """Whether a model that guesses could reach this top-1 on so many images."""
    return images >= _MIN_IMAGES_FOR_CHANCE and top1.low <= 1 / classes


def wilson_interval(successes: int, trials: int) -> Proportion:
    """Return a proportion with its score interval, which is valid for few trials and at 0 and 1.

    References:
        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
        Newcombe, "Two-sided confidence intervals for the single proportion: comparison of seven methods",
        Stat. Med. 17:857, 1998, method 3.
    """
    value, z2 = successes / trials, _Z**2
    centre = (successes + z2 / 2) / (trials + z2)
    half = _Z * math.sqrt(trials * value * (1 - value) + z2 / 4) / (trials + z2)
    return Proportion(value=value, low=max(0.0, centre - half), high=min(1.0, centre + half))


def tango_interval(lost: int, won: int, pairs: int) -> Proportion:
    """Return (lost - won) / pairs with its score interval, which excludes 0 if and only if McNemar rejects.

    Args:
        lost: Pairs in which only the first is a success.
        won: Pairs in which only the second is a success.
        pairs: All pairs.

    References:
        Tango, "Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design", Stat. Med. 17:891, 1998.
        Compared with others in Fagerland, Lydersen and Laake, "Recommended tests and confidence intervals for
        paired binomial proportions", Stat. Med. 33:2850, 2014.
    """
    value = (lost - won) / pairs

    def limit(end: float) -> float:
        inside, outside = value, end
        for _ in range(60):  # bisection to the last bit
            middle = (inside + outside) / 2
            if _is_plausible(middle, lost, won, pairs):
                inside = middle
            else:
                outside = middle
        return outside

    return Proportion(value=value, low=limit(-1.0), high=limit(1.0))


def _is_plausible(difference: float, lost: int, won: int, pairs: int) -> bool:
    """Whether Tango's score test does not reject this difference."""
    # The maximum-likelihood share of `won` given this difference: the larger root of a quadratic.
    linear = (2 * pairs - lost + won) * difference - lost - won
    constant = -won * difference * (1 - difference)
    share_won = (math.sqrt(max(0.0, linear**2 - 8 * pairs * constant)) - linear) / (4 * pairs)
    variance = pairs * (2 * share_won + difference * (1 - difference))
    return abs(lost - won - pairs * difference) <= _Z * math.sqrt(max(0.0, variance))
