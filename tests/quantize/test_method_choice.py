import functools
import operator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from refusals import refuses

from deploykit.quantize.calibration.method_choice import ErrorSum, MethodChoice, MethodScore
from deploykit.quantize.calibration.methods import CalibrationMethod
from deploykit.quantize.output_error import image_error_amplitudes, image_errors

MAX, MSE, ENTROPY = (CalibrationMethod(name=name) for name in ("max", "mse", "entropy"))

# What image_errors gives: a multiple of 2^-40 from 0 to 1.
ERRORS = st.integers(0, 2**40).map(lambda count: count / 2**40)
SUMS = st.lists(ERRORS, min_size=1, max_size=20).map(
    lambda errors: ErrorSum(total=float(np.sum(errors)), images=len(errors))
)
CHOICES = st.builds(
    lambda errors, noise: MethodChoice(
        scores=tuple(map(_score, (MAX, MSE, ENTROPY), errors)), noise=dict(zip("xyz", noise, strict=True))
    ),
    st.tuples(SUMS, SUMS, SUMS),
    st.tuples(SUMS, SUMS, SUMS),
)


def _score(method: CalibrationMethod, error: ErrorSum) -> MethodScore:
    return MethodScore(method=method, error=error)


@given(st.lists(ERRORS, min_size=2, max_size=200), st.randoms())
def test_errors_of_images_add_up_exactly_whatever_the_order(errors, random):
    sums = [ErrorSum(total=error, images=1) for error in errors]
    exact = sum(round(error * 2**40) for error in errors)  # integers of Python have no limit
    shuffled = random.sample(sums, len(sums))
    for total in (functools.reduce(operator.add, sums), functools.reduce(operator.add, shuffled)):
        assert total == ErrorSum(total=exact / 2**40, images=len(errors))


@given(st.lists(SUMS, min_size=3, max_size=3))
def test_sums_of_errors_add_up_in_any_grouping(sums):
    a, b, c = sums
    assert (a + b) + c == a + (b + c) == c + b + a


@given(CHOICES, CHOICES, CHOICES)
def test_choices_merge_in_any_order_and_grouping(a, b, c):
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))


@given(CHOICES, CHOICES)
def test_a_merged_choice_has_the_least_error_over_the_images_of_both(a, b):
    means = {
        first.method: (first.error.total + second.error.total) / (first.error.images + second.error.images)
        for first, second in zip(a.scores, b.scores, strict=True)
    }
    assert means[a.merge(b).best] == min(means.values())


def choice(**totals: float) -> MethodChoice:
    scores = tuple(
        _score(CalibrationMethod(name=name), ErrorSum(total=total, images=2))
        for name, total in totals.items()
    )
    return MethodChoice(scores=scores, noise={})


def test_the_best_has_the_least_error_and_among_equals_it_is_the_one_tried_first():
    assert choice(max=1.0, mse=0.5, entropy=0.75).best == MSE
    assert choice(max=0.5, mse=0.5, entropy=0.5).best == MAX
    assert choice(entropy=0.5, max=0.5).best == ENTROPY


def test_the_mean_and_not_the_sum_decides():
    scores = (_score(MAX, ErrorSum(total=2.0, images=8)), _score(MSE, ErrorSum(total=1.0, images=2)))
    assert MethodChoice(scores=scores, noise={}).best == MAX


def test_choices_among_different_methods_do_not_merge():
    for other in (choice(max=0.5), choice(max=0.5, entropy=0.0), choice(max=0.5, mse=0.5, entropy=0.5)):
        with refuses("ranges-not-mergeable") as caught:
            choice(max=1.0, mse=0.5).merge(other)
        assert "--method" in caught.value.fix


def test_the_order_in_which_methods_were_tried_makes_no_difference_to_their_errors():
    merged = choice(max=1.0, mse=0.5).merge(choice(mse=0.25, max=4.0))
    assert merged == choice(max=5.0, mse=0.75).merge(choice(max=0.0, mse=0.0))


def test_merged_noise_covers_the_tensors_that_both_measured():
    first, second = (
        replace(
            choice(max=1.0), noise={name: ErrorSum(total=total, images=1) for name, total in noise.items()}
        )
        for noise in ({"x": 0.5, "y": 1.0}, {"y": 0.25})
    )
    assert first.merge(second).noise == second.merge(first).noise == {"y": ErrorSum(total=1.25, images=2)}


LOGITS = arrays(np.float32, (4, 6), elements=st.floats(-100, 100, width=16))


@given(LOGITS, LOGITS)
def test_the_error_of_an_image_is_from_0_to_1_and_a_multiple_that_adds_up_exactly(logits, reference):
    errors = image_errors(logits, reference)
    assert errors.shape == (4,)
    assert ((errors >= 0) & (errors <= 1)).all()
    assert (errors * 2**40 == np.rint(errors * 2**40)).all()


@given(LOGITS, LOGITS)
def test_the_error_is_centred_noise_power_over_noise_and_signal_power(logits, reference):
    for row, error in enumerate(image_errors(logits, reference)):
        noise = np.var(logits[row].astype(float) - reference[row].astype(float))
        signal = np.var(reference[row].astype(float))
        expected = noise / (noise + signal) if noise + signal > 1e-12 else error
        assert error == pytest.approx(expected, abs=1e-6)


def test_equal_logits_have_no_error_and_opposite_ones_almost_one():
    reference = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0]], np.float32)
    assert image_errors(reference, reference).tolist() == [0, 0, 0]
    # By hand: the difference is twice the signal, its power four times: 4 / (4 + 1).
    assert image_errors(-reference, reference)[0] == pytest.approx(0.8, abs=1e-12)
    assert image_errors(np.array([[1, 0, 0]], np.float32), reference[1:2]).tolist() == [1]


def test_a_constant_added_to_all_logits_changes_nothing():
    generator = np.random.default_rng(0)
    logits, reference = generator.integers(-8, 8, (2, 5, 10)).astype(np.float32)
    np.testing.assert_array_equal(image_errors(logits + 4, reference), image_errors(logits, reference))


def test_an_image_with_huge_logits_counts_like_any_other():
    reference = np.random.default_rng(1).standard_normal((50, 10)).astype(np.float32)
    logits = reference + np.float32(0.01)
    logits[:, 0] += 0.1
    small = image_errors(logits, reference).mean()
    reference[0] *= 1e4
    logits[0] = 0  # its answer is lost
    assert image_errors(logits, reference).mean() == pytest.approx(small + 0.5 / 50, rel=0.1)


def test_the_error_of_a_single_output_is_not_taken_from_its_mean():
    errors = image_errors(np.array([[2.0], [3.0]], np.float32), np.array([[1.0], [3.0]], np.float32))
    assert errors.tolist() == [0.5, 0]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_non_finite_output_is_pure_noise(wrong):
    reference = np.ones((2, 3), np.float32)
    reference[:, 0] = 0
    errors = image_errors(np.where(np.eye(2, 3) > 0, wrong, reference)[:1], reference[:1])
    assert errors.tolist() == [1]


def test_amplitudes_are_the_roots_of_errors_and_add_up_exactly():
    generator = np.random.default_rng(3)
    reference = generator.standard_normal((40, 5)).astype(np.float32)
    logits = reference + generator.standard_normal((40, 5)).astype(np.float32) * 0.1
    amplitudes = image_error_amplitudes(logits, reference)
    assert amplitudes == pytest.approx(np.sqrt(image_errors(logits, reference)), abs=1e-12)
    assert sum(amplitudes[::-1].tolist()) == amplitudes.sum() == sum(amplitudes.tolist())
