"""Detection of drift and of two modes."""

import numpy as np
import pytest
from stats_cases import generator, wandering

from deploykit.stats.stability import detect_drift, detect_modes


@pytest.mark.parametrize("change", [-0.2, -0.1, 0.1, 0.2, 1.0])
def test_drift_is_detected_with_its_size(change):
    samples = generator().lognormal(1, 0.05, 1000) * np.linspace(1, 1 + change, 1000)
    assert detect_drift(samples) == pytest.approx((1 + change * 5 / 6) / (1 + change / 6) - 1, rel=0.15)


def test_a_step_in_the_middle_is_a_drift():
    samples = generator().lognormal(1, 0.05, 1000)
    samples[400:] *= 1.3
    assert detect_drift(samples) == pytest.approx(0.3, rel=0.1)


STABLE = {
    "log-normal": lambda random: random.lognormal(1, 0.3, 1000),
    "exponential": lambda random: 3 + random.exponential(1, 1000),
    "uniform": lambda random: random.uniform(9, 11, 1000),
    "of a coarse clock": lambda random: np.round(random.normal(1, 0.03, 1000), 2),
    "with stragglers": lambda random: np.where(
        random.random(1000) < 0.05, random.normal(15, 1, 1000), random.normal(10, 0.3, 1000)
    ),
    "wandering": wandering,
    "always the same": lambda random: np.full(1000, 3.0),
    "few": lambda random: random.lognormal(1, 0.3, 150),
}


@pytest.mark.parametrize("draw", STABLE.values(), ids=STABLE)
def test_stable_runs_have_no_drift_and_one_mode(draw):
    random = generator()
    assert sum(detect_drift(draw(random)) is not None for _ in range(200)) <= 4
    assert sum(detect_modes(draw(random)) is not None for _ in range(200)) == 0


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.8])
def test_two_modes_are_detected_with_their_medians(share):
    random = generator()
    is_slow = random.random(2000) < share
    result = detect_modes(np.where(is_slow, random.normal(13, 0.3, 2000), random.normal(10, 0.3, 2000)))
    assert result.low == pytest.approx(10, rel=0.02)
    assert result.high == pytest.approx(13, rel=0.02)
    assert result.share == pytest.approx(share, abs=0.03)


def test_too_few_samples_have_neither_drift_nor_modes():
    rising = np.linspace(1, 2, 50)
    assert detect_drift(rising) is None
    assert detect_modes(np.array([1.0, 2.0] * 25)) is None
