"""Estimates and comparisons of their intervals."""

import pytest
from stats_cases import TRIALS, generator

from deploykit.stats.estimate import Estimate, are_disjoint, ratio_between
from deploykit.stats.latency_percentiles import estimate_percentile


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(4.83, 4.888, "4.86 (4.83 to 4.888)"), (4.83, None, "4.86 (4.83 or more)"), (None, None, "4.86")],
)
def test_an_estimate_prints_its_interval(low, high, words):
    assert str(Estimate(value=4.86, low=low, high=high)) == words


def test_intervals_overlap_at_an_open_end():
    low, high, open_above = (
        Estimate(value=value, low=value - 1, high=end) for value, end in ((5, 6), (9, 10), (5, None))
    )
    assert are_disjoint(high, low)
    assert not are_disjoint(open_above, high)
    assert not are_disjoint(low, low)


def test_ratio_intervals_contain_the_truth_at_their_confidence():
    random, held = generator(5), 0
    for _ in range(TRIALS):
        estimates = (estimate_percentile(scale * random.exponential(1, 400), 50) for scale in (1, 2))
        held += ratio_between(*estimates).contains(2.0)
    assert 0.92 <= held / TRIALS <= 0.98


def test_a_ratio_has_open_ends_where_its_estimates_do():
    closed, above = (Estimate(value=4, low=2, high=end) for end in (8, None))
    assert ratio_between(closed, closed).interval != ""
    assert (ratio_between(closed, above).low is None, ratio_between(closed, above).high) == (False, None)
    assert (ratio_between(above, closed).low, ratio_between(above, closed).high is None) == (None, False)
