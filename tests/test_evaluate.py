import math

import numpy as np
import pytest

from deploykit.evaluate import agreement, sqnr_db, top1


def array(*rows) -> np.ndarray:
    return np.array(rows, np.float32)


def test_top1_is_the_fraction_whose_largest_logit_is_the_labels():
    logits = array([0.1, 0.9, 0], [5, -1, 2], [-3, -2, -1], [0, 1, 0])
    assert top1(logits, np.array([1, 0, 2, 2])) == 0.75


@pytest.mark.parametrize(("labels", "fraction"), [([0, 0], 1.0), ([1, 1], 0.0)])
def test_top1_goes_from_none_to_all(labels, fraction):
    assert top1(array([2, 1], [1, 0]), np.array(labels)) == fraction


def test_agreement_is_about_the_class_not_the_logits():
    logits, reference = array([1, 2], [3, 1], [0, 9]), array([10, 20], [1, 3], [-2, -1])
    assert agreement(logits, reference) == pytest.approx(2 / 3)
    assert agreement(reference, reference * 100) == 1


# Power of the reference over the difference's: 25 / 0.25 = 100; 25 / 25 = 1; 25 / 2500.
@pytest.mark.parametrize(
    ("logits", "decibels"), [([3.5, 4.0], 20), ([0, 0], 0), ([33, 44], -20), ([3, 4 + 5e-3], 60)]
)
def test_sqnr_is_the_references_power_over_the_differences(logits, decibels):
    assert sqnr_db(array(logits), array([3, 4])) == pytest.approx(decibels, abs=1e-3)


def test_sqnr_without_a_difference_is_infinite():
    assert sqnr_db(array([3, 4]), array([3, 4])) == math.inf


def test_sqnr_is_not_symmetric():
    # 25 over 100, and 225 over 100.
    assert sqnr_db(array([9, 12]), array([3, 4])) == pytest.approx(10 * math.log10(25 / 100))
    assert sqnr_db(array([3, 4]), array([9, 12])) == pytest.approx(10 * math.log10(225 / 100))


def test_sqnr_survives_values_whose_squares_float32_cannot_hold():
    assert sqnr_db(array([3.5e25, 4e25]), array([3e25, 4e25])) == pytest.approx(20, abs=1e-3)
