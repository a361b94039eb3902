"""The largest phi for a target: decided, predicted, measured."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.errors import DeployError
from deploykit.fit import Goal, bisect_largest, fit_phi, phi_grid

GPUS = ("T4", "A100", "V100", "RTX 4090")


@given(
    target_ms=st.floats(0.5, 60),
    factor=st.floats(1, 4),
    gpu=st.sampled_from(GPUS),
    precision=st.sampled_from(["fp16", "int8"]),
    batch=st.sampled_from([1, 8, 64]),
)
def test_a_looser_latency_never_gives_a_smaller_phi(target_ms, factor, gpu, precision, batch):
    tight = fit_phi(gpu, max_latency_ms=target_ms, precision=precision, batch=batch).chosen
    loose = fit_phi(gpu, max_latency_ms=target_ms * factor, precision=precision, batch=batch).chosen
    assert (tight.phi if tight else -1) <= (loose.phi if loose else -1)


@given(rate=st.floats(1, 20000), factor=st.floats(1, 4), gpu=st.sampled_from(GPUS))
def test_a_looser_throughput_never_gives_a_smaller_phi(rate, factor, gpu):
    tight = fit_phi(gpu, min_images_per_s=rate, batch=8).chosen
    loose = fit_phi(gpu, min_images_per_s=rate / factor, batch=8).chosen
    assert (tight.phi if tight else -1) <= (loose.phi if loose else -1)


@given(target_ms=st.floats(0.5, 60), gpu=st.sampled_from(GPUS))
def test_at_batch_1_a_throughput_target_is_a_latency_target(target_ms, gpu):
    by_latency = fit_phi(gpu, max_latency_ms=target_ms).chosen
    by_rate = fit_phi(gpu, min_images_per_s=1000 / (target_ms * (1 + 1e-12))).chosen
    assert (by_latency and by_latency.phi) == (by_rate and by_rate.phi)


def test_the_unfavourable_end_of_the_interval_decides():
    fit = fit_phi("T4", max_latency_ms=10)
    assert fit.chosen is not None
    assert fit.chosen.latency.high_ms <= 10
    beyond = next(each for each in fit.candidates if each.phi > fit.chosen.phi)
    assert beyond.latency.high_ms > 10


def test_a_phi_that_only_may_fit_is_named_as_such():
    fit = fit_phi("T4", max_latency_ms=10)
    assert fit.hoped_for is not None
    assert fit.hoped_for.latency.expected_ms <= 10 < fit.hoped_for.latency.high_ms


def test_every_prediction_says_that_it_is_one():
    fit = fit_phi("A100", max_latency_ms=5, phi_step=0.5)
    assert [each.phi for each in fit.candidates] == [index / 2 for index in range(15)]
    assert {each.latency.evidence for each in fit.candidates} == {"predicted"}


def test_both_targets_must_be_met():
    goal = Goal(max_latency_ms=10, min_images_per_s=150)
    assert goal.is_met(latency_ms=6, batch=1)  # 167 images/s
    assert not goal.is_met(latency_ms=8, batch=1)  # 125 images/s
    assert not goal.is_met(latency_ms=11, batch=2)  # 182 images/s, too late


@pytest.mark.parametrize(
    ("step", "grid"),
    [(1, (0, 1, 2, 3, 4, 5, 6, 7)), (3, (0, 3, 6, 7)), (7, (0, 7)), (2.5, (0, 2.5, 5, 7))],
)
def test_the_grid_has_both_ends(step, grid):
    assert phi_grid(step) == grid


@given(count=st.integers(1, 200), largest=st.integers(-1, 199))
def test_bisection_finds_the_largest_in_at_most_log2_steps(count, largest):
    asked = []

    def fits(phi):
        asked.append(phi)
        return phi <= largest

    bisect_largest(range(count), fits)
    assert max((phi for phi in asked if phi <= largest), default=-1) == min(largest, count - 1)
    assert len(asked) <= math.floor(math.log2(count)) + 1


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ({}, "no target"),
        ({"max_latency_ms": 0}, "above zero"),
        ({"max_latency_ms": math.nan}, "above zero"),
        ({"max_latency_ms": -3}, "above zero"),
        ({"min_images_per_s": math.inf}, "above zero"),
        ({"max_latency_ms": 10, "batch": 0}, "batch of 0"),
        ({"max_latency_ms": 10, "phi_step": 0}, "phi step"),
        ({"max_latency_ms": 10, "phi_step": math.nan}, "phi step"),
        ({"max_latency_ms": 10, "percentile": 0}, "percentile"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, about):
    with pytest.raises(DeployError, match=about):
        fit_phi("T4", **arguments)


def test_a_gpu_of_which_too_little_is_known_is_refused():
    with pytest.raises(DeployError, match="Too little is known of the RTX 5090"):
        fit_phi("RTX 5090", max_latency_ms=10)


def test_the_cpu_is_measured():
    fit = fit_phi("cpu", max_latency_ms=1e-3, phi_step=7)  # nothing is that fast: one measurement tells
    assert fit.chosen is None
    assert [(each.phi, each.latency.evidence) for each in fit.candidates] == [(0, "measured")]
    assert fit.candidates[0].latency.expected_ms > 1e-3
    assert fit.precision == "fp32"


def test_a_local_gpu_that_is_not_there_is_refused():
    from deploykit.local_gpu import local_gpu

    if local_gpu() is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeployError, match="no NVIDIA GPU"):
        fit_phi("local", max_latency_ms=10)
