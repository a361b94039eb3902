"""Find the batch that suits a network best, if the batch is free."""

import pytest

from deploykit.networks.families.registry import find_family
from deploykit.networks.member import choose_member
from deploykit.planning.fit.batch_choice import evaluate_member
from deploykit.planning.fit.fit import fit_phi
from deploykit.planning.fit.phi_grid import FREE_BATCHES
from deploykit.planning.fit.request import FitRequest
from deploykit.planning.fit.targets import Targets
from deploykit.planning.latency_source import Latency


@pytest.mark.parametrize("gpu", ["T4", "A100", "V100", "RTX 4090"])
def test_a_free_batch_meets_both_targets_and_is_no_larger_than_necessary(gpu):
    fit = fit_phi(gpu, max_latency_ms=10, min_images_per_s=800, batch=None)
    assert fit.chosen is not None
    for each in fit.candidates:
        if each.fits:
            assert each.latency.high_ms <= 10
            assert 1000 * each.batch / each.latency.high_ms >= 800
            if each.batch > 1:
                half = fit_phi(gpu, max_latency_ms=10, min_images_per_s=800, batch=each.batch // 2)
                assert not next(other for other in half.candidates if other.phi == each.phi).fits
    one = fit_phi(gpu, max_latency_ms=10, min_images_per_s=800)
    assert (one.chosen.phi if one.chosen else -1) <= fit.chosen.phi


def test_batch_auto_means_the_same_as_none():
    assert fit_phi("T4", max_latency_ms=20, batch="auto") == fit_phi("T4", max_latency_ms=20, batch=None)


def test_with_a_latency_target_alone_a_free_batch_is_the_largest_that_meets_it():
    fit = fit_phi("T4", max_latency_ms=20, batch=None)
    for each in fit.candidates:
        if each.fits and each.batch < 256:
            double = fit_phi("T4", max_latency_ms=20, batch=2 * each.batch)
            assert not next(other for other in double.candidates if other.phi == each.phi).fits


@pytest.mark.parametrize(
    ("gpu", "max_latency_ms", "rate"), [("L4", 5, 3000), ("T4", None, 4000), ("A100", 3, 50_000)]
)
def test_if_no_batch_reaches_the_throughput_the_nearest_one_is_shown(gpu, max_latency_ms, rate):
    fit = fit_phi(gpu, max_latency_ms=max_latency_ms, min_images_per_s=rate, batch=None)
    assert fit.chosen is None
    miss = fit.nearest_miss
    rates = {}
    for batch in FREE_BATCHES:
        latency = fit_phi(gpu, min_images_per_s=rate, batch=batch).candidates[0].latency
        if max_latency_ms is None or latency.high_ms <= max_latency_ms:
            rates[batch] = batch / latency.high_ms
    assert (miss.phi, miss.misses) == (0, ("throughput",))
    assert miss.batch == max(rates, key=rates.get) > 1


def test_if_no_batch_meets_the_latency_a_single_image_is_shown():
    fit = fit_phi("T4", max_latency_ms=1, min_images_per_s=100, batch=None)
    assert {each.batch for each in fit.candidates} == {1}


class FakeMachine:
    """Latency source with a given latency per batch; by default throughput stops rising at batch 4."""

    title, is_measuring, candidate_precisions = "a machine", True, ("fp32",)

    def __init__(self, batch_ms=lambda batch: max(batch, 4)) -> None:
        self.measured: list[int] = []
        self.batch_ms = batch_ms

    def resolve_precision(self, requested):
        return requested or "fp32"

    def find_latency(self, member, *, precision, batch):
        self.measured.append(batch)
        ms = float(self.batch_ms(batch))
        rate = 1000 * batch / ms
        return Latency(
            expected_ms=ms,
            low_ms=ms,
            high_ms=ms,
            images_per_s=rate,
            low_images_per_s=rate,
            evidence="measured",
        )


def request_on(source):
    """Return a request with a free batch."""
    return FitRequest(
        latency_source=source,
        gpu=None,
        precision="fp32",
        compared_precisions=("fp32",),
        family=find_family("efficientnet"),
        axis=None,
        targets=Targets(min_images_per_s=5000),
        batch=None,
        phi_step=1.0,
        percentile=90.0,
        optimistic=False,
    )


def test_a_free_batch_is_measured_until_throughput_stops_rising():
    source = FakeMachine()
    assert evaluate_member(request_on(source), 0.0, choose_member(phi=0.0)).batch == 4
    assert source.measured == [1, 2, 4, 8]


@pytest.mark.parametrize(("image_ms", "measured"), [(1, [1, 2]), (0.21, [1, 2, 4, 8, 16, 32, 64, 128, 256])])
def test_a_free_batch_is_measured_while_the_target_is_within_reach(image_ms, measured):
    """Ten ms per batch plus one per image never reach 5000 images/s: 1000 is the limit."""
    source = FakeMachine(lambda batch: 10 + image_ms * batch)
    evaluate_member(request_on(source), 0.0, choose_member(phi=0.0))
    assert source.measured == measured
