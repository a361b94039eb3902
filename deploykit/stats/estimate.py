"""Estimates with confidence intervals, and comparisons of two."""

import math
from dataclasses import dataclass

CONFIDENCE = 0.95
"""Probability with which the intervals of this package contain the true value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % confidence interval.

    Attributes:
        value: The estimate.
        low: Lower end; None if the interval is open there, because there are too few samples to bound it.
        high: Upper end; None likewise.
    """

    value: float
    low: float | None
    high: float | None

    @property
    def interval(self) -> str:
        """The interval as text, with four digits, see format_interval."""
        return self.format_interval()

    def format_interval(self, digits: int = 4) -> str:
        """Return `4.83 to 4.89`, `4.83 or more`, or nothing if both ends are open."""
        match self.low, self.high:
            case None, None:
                return ""
            case low, None:
                return f"{low:.{digits}g} or more"
            case None, high:
                return f"{high:.{digits}g} or less"
            case low, high:
                return f"{low:.{digits}g} to {high:.{digits}g}"

    def __str__(self) -> str:
        """`4.861 (4.83 to 4.89)`."""
        return f"{self.value:.4g} ({self.interval})" if self.interval else f"{self.value:.4g}"

    def scaled(self, factor: float) -> "Estimate":
        """Return the estimate times a positive factor, for example in another unit."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return Estimate(value=self.value * factor, low=low, high=high)

    def contains(self, value: float) -> bool:
        """Whether the interval contains the value."""
        return (self.low is None or self.low <= value) and (self.high is None or value <= self.high)


def are_disjoint(one: Estimate, other: Estimate) -> bool:
    """Whether the intervals of two estimates do not overlap."""
    below, above = sorted((one, other), key=lambda each: each.value)
    return below.high is not None and above.low is not None and below.high < above.low


def ratio_between(first: Estimate, second: Estimate) -> Estimate:
    """Return the second of two independent estimates over the first; ends are open where theirs are.

    References:
        Zou and Donner 2008, "Construction of confidence limits about effect measures", Stat. Med. 27:1693,
        for a difference; here applied to logarithms.
    """

    def distance(one: float | None, other: float | None) -> float | None:
        return None if not one or not other else math.log(one / other)

    def end(towards_first: float | None, towards_second: float | None, sign: int) -> float | None:
        if towards_first is None or towards_second is None:
            return None
        return value * math.exp(sign * math.hypot(towards_first, towards_second))

    value = second.value / first.value
    return Estimate(
        value=value,
        low=end(distance(first.high, first.value), distance(second.value, second.low), -1),
        high=end(distance(first.value, first.low), distance(second.high, second.value), 1),
    )
