import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.stats.accuracy_metrics import (
    agreement,
    hit_rate,
    matching_classes,
    median_sqnr_db,
    paired_drop,
    sqnr_db,
    tango_interval,
    top1,
    topk,
    topk_hits,
    wilson_interval,
)

CHI_SQUARED_95 = 3.841458821  # 95th percentile, one degree of freedom, of any table


def array(*rows) -> np.ndarray:
    return np.array(rows, np.float32)


def mask(text: str) -> np.ndarray:
    return np.array([letter == "1" for letter in text])


def test_top1_is_the_fraction_whose_largest_logit_is_the_labels():
    logits = array([0.1, 0.9, 0], [5, -1, 2], [-3, -2, -1], [0, 1, 0])
    assert top1(logits, np.array([1, 0, 2, 2])) == 0.75


@pytest.mark.parametrize(("labels", "fraction"), [([0, 0], 1.0), ([1, 1], 0.0)])
def test_top1_goes_from_none_to_all(labels, fraction):
    assert top1(array([2, 1], [1, 0]), np.array(labels)) == fraction


# The label's logit is the fourth largest of the first image's, the second of the other's.
@pytest.mark.parametrize(("k", "fraction"), [(1, 0), (2, 0.5), (3, 0.5), (4, 1), (5, 1)])
def test_topk_counts_labels_among_the_k_largest(k, fraction):
    logits = array([5, 4, 3, 2, 1], [-9, 0, 7, 8, -8])
    assert topk(logits, np.array([3, 2]), k) == fraction


def test_of_equal_logits_the_first_wins_as_argmax_has_it():
    logits = array([1, 1, 1], [0, 2, 2])
    assert topk_hits(logits, np.array([0, 1])).tolist() == [True, True]
    assert topk_hits(logits, np.array([1, 2])).tolist() == [False, False]
    assert topk_hits(logits, np.array([1, 2]), 2).tolist() == [True, True]


@given(seed=st.integers(0, 2**32 - 1))
def test_top1_is_that_of_argmax_ties_included(seed):
    generator = np.random.default_rng(seed)
    logits = generator.integers(0, 4, (20, 6)).astype(np.float32)
    labels = generator.integers(0, 6, 20)
    assert topk_hits(logits, labels).tolist() == (logits.argmax(axis=1) == labels).tolist()


def test_logits_that_are_nan_are_no_right_answers():
    nothing = np.full((3, 4), np.nan, np.float32)
    assert top1(nothing, np.array([0, 1, 3])) == 0
    one = np.array([[np.nan, 1, 0, 0]], np.float32)
    assert (top1(one, np.array([0])), top1(one, np.array([1]))) == (0, 1)


def test_agreement_is_about_the_class_not_the_logits():
    logits, reference = array([1, 2], [3, 1], [0, 9]), array([10, 20], [1, 3], [-2, -1])
    assert agreement(logits, reference) == pytest.approx(2 / 3)
    assert matching_classes(logits, reference).tolist() == [True, False, True]
    assert agreement(reference, reference * 100) == 1


# Power of the reference over the difference's: 25 / 0.25 = 100; 25 / 25 = 1; 25 / 2500.
@pytest.mark.parametrize(
    ("logits", "decibels"), [([3.5, 4.0], 20), ([0, 0], 0), ([33, 44], -20), ([3, 4 + 5e-3], 60)]
)
def test_sqnr_is_the_references_power_over_the_differences(logits, decibels):
    assert sqnr_db(array(logits), array([3, 4])) == pytest.approx(decibels, abs=1e-3)


def test_sqnr_is_about_all_rows_together():
    # 25 + 0 over 0.25 + 2.25; in more rows than are taken at a time it is the same.
    logits, reference = array([3.5, 4], [1.5, 0]), array([3, 4], [0, 0])
    assert sqnr_db(logits, reference) == pytest.approx(10)
    assert sqnr_db(np.tile(logits, (1500, 1)), np.tile(reference, (1500, 1))) == pytest.approx(10)


@pytest.mark.parametrize(
    ("logits", "reference", "decibels"), [([3, 4], [3, 4], math.inf), ([3, 4], [0, 0], -math.inf)]
)
def test_sqnr_without_noise_or_without_signal_is_infinite(logits, reference, decibels):
    assert sqnr_db(array(logits), array(reference)) == decibels


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_nothing_but_noise(wrong):
    reference = np.ones((2, 3), np.float32)
    assert sqnr_db(np.where(np.eye(2, 3) > 0, wrong, reference), reference) == -math.inf


def test_the_median_image_is_not_that_of_huge_logits():
    reference = np.ones((5, 4), np.float32)
    logits = reference + np.array([0.1, 0.1, 0.1, 0.1, 0], np.float32)[:, None]
    reference[0] *= 1000
    assert median_sqnr_db(logits, reference) == pytest.approx(20, abs=1e-4)
    assert sqnr_db(logits, reference) < 1
    assert median_sqnr_db(reference, reference) == math.inf
    assert median_sqnr_db(reference, 0 * reference) == -math.inf


def test_sqnr_is_not_symmetric():
    # 25 over 100, and 225 over 100.
    assert sqnr_db(array([9, 12]), array([3, 4])) == pytest.approx(10 * math.log10(25 / 100))
    assert sqnr_db(array([3, 4]), array([9, 12])) == pytest.approx(10 * math.log10(225 / 100))


def test_sqnr_survives_values_whose_squares_float32_cannot_hold():
    assert sqnr_db(array([3.5e25, 4e25]), array([3e25, 4e25])) == pytest.approx(20, abs=1e-3)


# Newcombe, Stat. Med. 17:857, 1998, table I, method 3; the last two as statsmodels 0.14 has them.
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
def test_the_interval_of_a_proportion_is_wilsons(successes, trials, low, high):
    interval = wilson_interval(successes, trials)
    assert interval.value == successes / trials
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(trials=st.integers(1, 10_000), data=st.data())
def test_no_interval_of_a_proportion_leaves_0_to_1_or_misses_its_value(trials, data):
    interval = wilson_interval(data.draw(st.integers(0, trials)), trials)
    assert 0 <= interval.low <= interval.value + 1e-12
    assert interval.value - 1e-12 <= interval.high <= 1


# Fagerland, Lydersen and Laake, Stat. Med. 33:2850, 2014: airway reactivity before and after a stem cell
# transplantation; and complete response before and after consolidation, as contingencytables (R) has it.
@pytest.mark.parametrize(
    ("lost", "won", "pairs", "low", "high"), [(1, 7, 21, -0.517, -0.026), (6, 16, 161, -0.1240, -0.0054)]
)
def test_the_interval_of_a_paired_difference_is_tangos(lost, won, pairs, low, high):
    interval = tango_interval(lost, won, pairs)
    assert interval.value == (lost - won) / pairs
    digits = 5e-4 if pairs == 21 else 5e-5
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=digits)


def test_a_difference_never_seen_has_the_bound_of_a_proportion_never_seen():
    # By hand: n d = z sqrt(n d (1 - d)) has the root z^2 / (n + z^2), Wilson's for 0 of n.
    interval = tango_interval(0, 0, 20)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0, -0.1611, 0.1611), abs=5e-5)


@given(lost=st.integers(0, 60), won=st.integers(0, 60), agreed=st.integers(0, 2000))
def test_the_paired_interval_leaves_out_0_just_where_mcnemar_rejects(lost, won, agreed):
    if lost + won == 0:
        return
    interval = tango_interval(lost, won, lost + won + agreed)
    statistic = (lost - won) ** 2 / (lost + won)
    if abs(statistic - CHI_SQUARED_95) > 1e-6:
        assert (interval.low > 0 or interval.high < 0) == (statistic > CHI_SQUARED_95)
    assert -1 <= interval.low <= interval.value <= interval.high <= 1


@given(lost=st.integers(0, 50), won=st.integers(0, 50), agreed=st.integers(1, 100))
def test_exchanging_the_two_sides_mirrors_the_interval(lost, won, agreed):
    one = tango_interval(lost, won, lost + won + agreed)
    other = tango_interval(won, lost, lost + won + agreed)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-12)


def test_a_drop_is_what_the_reference_gets_right_and_the_model_wrong_less_the_reverse():
    drop = paired_drop(mask("1110000000"), mask("1001000000"))
    assert drop == tango_interval(2, 1, 10)
    assert drop.value == pytest.approx(0.1)


def test_pairing_finds_a_drop_that_two_separate_intervals_hide():
    # 730 and 715 of 1000, no image won: McNemar's statistic is 15.
    reference, model = mask("1" * 730 + "0" * 270), mask("1" * 715 + "0" * 285)
    assert hit_rate(model).high > hit_rate(reference).low
    assert hit_rate(model).high > hit_rate(reference).value
    assert paired_drop(reference, model).low > 0
