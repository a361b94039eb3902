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
    top1,
    topk,
    topk_hits,
)
from deploykit.stats.proportion import tango_interval


def array(*rows) -> np.ndarray:
    return np.array(rows, np.float32)


def mask(text: str) -> np.ndarray:
    return np.array([letter == "1" for letter in text])


def test_top1_is_the_fraction_with_the_largest_logit_at_the_label():
    logits = array([0.1, 0.9, 0], [5, -1, 2], [-3, -2, -1], [0, 1, 0])
    assert top1(logits, np.array([1, 0, 2, 2])) == 0.75


@pytest.mark.parametrize(("labels", "fraction"), [([0, 0], 1.0), ([1, 1], 0.0)])
def test_top1_ranges_from_0_to_1(labels, fraction):
    assert top1(array([2, 1], [1, 0]), np.array(labels)) == fraction


# The label has the fourth largest logit of the first image, and the second largest of the other.
@pytest.mark.parametrize(("k", "fraction"), [(1, 0), (2, 0.5), (3, 0.5), (4, 1), (5, 1)])
def test_topk_counts_labels_among_the_k_largest(k, fraction):
    logits = array([5, 4, 3, 2, 1], [-9, 0, 7, 8, -8])
    assert topk(logits, np.array([3, 2]), k) == fraction


def test_the_first_of_equal_logits_wins_as_in_argmax():
    logits = array([1, 1, 1], [0, 2, 2])
    assert topk_hits(logits, np.array([0, 1])).tolist() == [True, True]
    assert topk_hits(logits, np.array([1, 2])).tolist() == [False, False]
    assert topk_hits(logits, np.array([1, 2]), 2).tolist() == [True, True]


@given(seed=st.integers(0, 2**32 - 1))
def test_top1_equals_argmax_including_ties(seed):
    generator = np.random.default_rng(seed)
    logits = generator.integers(0, 4, (20, 6)).astype(np.float32)
    labels = generator.integers(0, 6, 20)
    assert topk_hits(logits, labels).tolist() == (logits.argmax(axis=1) == labels).tolist()


def test_nan_logits_are_never_hits():
    nothing = np.full((3, 4), np.nan, np.float32)
    assert top1(nothing, np.array([0, 1, 3])) == 0
    one = np.array([[np.nan, 1, 0, 0]], np.float32)
    assert (top1(one, np.array([0])), top1(one, np.array([1]))) == (0, 1)


def test_agreement_compares_classes_not_logits():
    logits, reference = array([1, 2], [3, 1], [0, 9]), array([10, 20], [1, 3], [-2, -1])
    assert agreement(logits, reference) == pytest.approx(2 / 3)
    assert matching_classes(logits, reference).tolist() == [True, False, True]
    assert agreement(reference, reference * 100) == 1


# Power of the reference over the difference's: 25 / 0.25 = 100; 25 / 25 = 1; 25 / 2500.
@pytest.mark.parametrize(
    ("logits", "decibels"), [([3.5, 4.0], 20), ([0, 0], 0), ([33, 44], -20), ([3, 4 + 5e-3], 60)]
)
def test_sqnr_is_the_power_of_the_reference_over_that_of_the_difference(logits, decibels):
    assert sqnr_db(array(logits), array([3, 4])) == pytest.approx(decibels, abs=1e-3)


def test_sqnr_covers_all_rows_together():
    # 25 + 0 over 0.25 + 2.25, also for more rows than are processed at once.
    logits, reference = array([3.5, 4], [1.5, 0]), array([3, 4], [0, 0])
    assert sqnr_db(logits, reference) == pytest.approx(10)
    assert sqnr_db(np.tile(logits, (1500, 1)), np.tile(reference, (1500, 1))) == pytest.approx(10)


@pytest.mark.parametrize(
    ("logits", "reference", "decibels"), [([3, 4], [3, 4], math.inf), ([3, 4], [0, 0], -math.inf)]
)
def test_sqnr_is_infinite_without_noise_or_signal(logits, reference, decibels):
    assert sqnr_db(array(logits), array(reference)) == decibels


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_non_finite_logits_are_pure_noise(wrong):
    reference = np.ones((2, 3), np.float32)
    assert sqnr_db(np.where(np.eye(2, 3) > 0, wrong, reference), reference) == -math.inf


def test_median_sqnr_is_not_dominated_by_huge_logits():
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


def test_sqnr_handles_values_whose_squares_overflow_float32():
    assert sqnr_db(array([3.5e25, 4e25]), array([3e25, 4e25])) == pytest.approx(20, abs=1e-3)


def test_a_paired_drop_is_the_lost_hits_minus_the_gained():
    drop = paired_drop(mask("1110000000"), mask("1001000000"))
    assert drop == tango_interval(2, 1, 10)
    assert drop.value == pytest.approx(0.1)


def test_a_paired_interval_detects_a_drop_that_separate_intervals_hide():
    # 730 and 715 of 1000, no image gained: McNemar's statistic is 15.
    reference, model = mask("1" * 730 + "0" * 270), mask("1" * 715 + "0" * 285)
    assert hit_rate(model).high > hit_rate(reference).low
    assert hit_rate(model).high > hit_rate(reference).value
    assert paired_drop(reference, model).low > 0
