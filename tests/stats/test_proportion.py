"""Intervals of proportions, against published examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.stats.proportion import tango_interval, wilson_interval

CHI_SQUARED_95 = 3.841458821  # 95th percentile, one degree of freedom, from any table


# Newcombe, Stat. Med. 17:857, 1998, table I, method 3; the last two from statsmodels 0.14.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1),
        (1459, 2000, 0.7096, 0.7485),
    ],
)
def test_proportion_intervals_match_wilsons(successes, trials, low, high):
    interval = wilson_interval(successes, trials)
    assert interval.value == successes / trials
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(trials=st.integers(1, 10_000), data=st.data())
def test_a_proportion_interval_contains_its_value_within_0_and_1(trials, data):
    interval = wilson_interval(data.draw(st.integers(0, trials)), trials)
    assert 0 <= interval.low <= interval.value + 1e-12
    assert interval.value - 1e-12 <= interval.high <= 1


# Fagerland, Lydersen and Laake, Stat. Med. 33:2850, 2014: airway reactivity before and after a stem cell
# transplantation; and complete response before and after consolidation, from contingencytables (R).
@pytest.mark.parametrize(
    ("lost", "won", "pairs", "low", "high"), [(1, 7, 21, -0.517, -0.026), (6, 16, 161, -0.1240, -0.0054)]
)
def test_paired_difference_intervals_match_tangos(lost, won, pairs, low, high):
    interval = tango_interval(lost, won, pairs)
    assert interval.value == (lost - won) / pairs
    digits = 5e-4 if pairs == 21 else 5e-5
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=digits)


def test_without_differences_the_bounds_equal_wilsons_for_zero():
    # By hand: n d = z sqrt(n d (1 - d)) has the root z^2 / (n + z^2), which is Wilson's for 0 of n.
    interval = tango_interval(0, 0, 20)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0, -0.1611, 0.1611), abs=5e-5)


@given(lost=st.integers(0, 60), won=st.integers(0, 60), agreed=st.integers(0, 2000))
def test_the_paired_interval_excludes_0_exactly_if_mcnemar_rejects(lost, won, agreed):
    if lost + won == 0:
        return
    interval = tango_interval(lost, won, lost + won + agreed)
    statistic = (lost - won) ** 2 / (lost + won)
    if abs(statistic - CHI_SQUARED_95) > 1e-6:
        assert (interval.low > 0 or interval.high < 0) == (statistic > CHI_SQUARED_95)
    assert -1 <= interval.low <= interval.value <= interval.high <= 1


@given(lost=st.integers(0, 50), won=st.integers(0, 50), agreed=st.integers(1, 100))
def test_swapping_the_two_sides_mirrors_the_interval(lost, won, agreed):
    one = tango_interval(lost, won, lost + won + agreed)
    other = tango_interval(won, lost, lost + won + agreed)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-12)
