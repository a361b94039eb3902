"""Find the largest phi for a target, by prediction and by measurement."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from refusals import refuses

from deploykit.cli.units import parse_fraction
from deploykit.networks.architecture.builder import NetworkBuilder
from deploykit.networks.families.registry import FAMILIES, find_family
from deploykit.networks.member import choose_member
from deploykit.networks.scaling import stretched_axis
from deploykit.planning.fit.fit import fit_phi
from deploykit.planning.fit.memory import estimate_memory_bytes
from deploykit.planning.fit.phi_grid import bisect_largest, phi_grid, phis_between
from deploykit.planning.fit.targets import Targets

GPUS = ("T4", "A100", "V100", "RTX 4090")
few = settings(max_examples=15)


@few
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


@few
@given(rate=st.floats(1, 20000), factor=st.floats(1, 4), gpu=st.sampled_from(GPUS))
def test_a_looser_throughput_never_gives_a_smaller_phi(rate, factor, gpu):
    tight = fit_phi(gpu, min_images_per_s=rate, batch=8).chosen
    loose = fit_phi(gpu, min_images_per_s=rate / factor, batch=8).chosen
    assert (tight.phi if tight else -1) <= (loose.phi if loose else -1)


@few
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


def test_a_phi_whose_expected_latency_alone_fits_is_borderline():
    fit = fit_phi("T4", max_latency_ms=10)
    assert fit.borderline is not None
    assert fit.borderline.latency.expected_ms <= 10 < fit.borderline.latency.high_ms


def test_every_predicted_latency_is_labelled_as_predicted():
    fit = fit_phi("A100", max_latency_ms=5)
    assert [each.phi for each in fit.candidates] == list(range(8))
    assert {each.latency.evidence for each in fit.candidates} == {"predicted"}


def test_both_targets_must_be_met():
    targets = Targets(max_latency_ms=10, min_images_per_s=150)
    assert targets.are_met(latency_ms=6, images_per_s=167)
    assert not targets.are_met(latency_ms=8, images_per_s=125)
    assert not targets.are_met(latency_ms=11, images_per_s=182)


@pytest.mark.parametrize(
    ("step", "grid"),
    [(1, (0, 1, 2, 3, 4, 5, 6, 7)), (3, (0, 3, 6, 7)), (7, (0, 7)), (2.5, (0, 2.5, 5, 7))],
)
def test_the_grid_includes_both_ends(step, grid):
    assert phi_grid(step, (0.0, 7.0)) == grid


def test_a_grid_of_small_steps_includes_the_published_members():
    assert phi_grid(0.3, (0.0, 2.0)) == (0, 0.3, 0.6, 0.9, 1, 1.2, 1.5, 1.8, 2)
    assert phi_grid(0.7, (0.0, 3.0)) == (0, 0.7, 1, 1.4, 2, 2.1, 2.8, 3)


@few
@given(
    step=st.floats(0.05, 1),
    target_ms=st.floats(0.5, 40),
    gpu=st.sampled_from(GPUS),
    family=st.sampled_from(["efficientnet", "efficientnetv2", "resnet50"]),
)
@example(step=0.3, target_ms=6.1, gpu="T4", family="efficientnet")
def test_a_smaller_step_never_gives_a_smaller_phi_than_the_published_members(step, target_ms, gpu, family):
    coarse = fit_phi(gpu, max_latency_ms=target_ms, family=family).chosen
    fine = fit_phi(gpu, max_latency_ms=target_ms, family=family, phi_step=step).chosen
    assert (coarse.phi if coarse else -1) <= (fine.phi if fine else -1)


def test_fractional_phis_are_tried_only_just_above_the_largest_that_fits():
    fit = fit_phi("T4", max_latency_ms=10, phi_step=0.25)
    assert [each.phi for each in fit.candidates] == [0, 1, 2, 3, 4, 4.25, 4.5, 4.75, 5, 6, 7]
    assert 4 < fit.chosen.phi < 5
    fine, coarse = (
        fit_phi("T4", max_latency_ms=10, phi_step=step, optimistic=True).chosen.phi for step in (0.25, 1)
    )
    assert fine >= coarse


def test_no_fractional_phi_is_tried_if_everything_or_nothing_fits():
    assert phis_between((0, 0.5, 1, 1.5, 2), (0, 1, 2), 1) == [1.5]
    assert phis_between((0, 0.5, 1), (0, 1), 1) == []
    assert phis_between((0, 0.5, 1), (0, 1), None) == []


@given(count=st.integers(1, 200), largest=st.integers(-1, 199))
def test_bisection_finds_the_largest_in_at_most_log2_steps(count, largest):
    tried = []

    def fits(phi):
        tried.append(phi)
        return phi <= largest

    bisect_largest(range(count), fits)
    assert max((phi for phi in tried if phi <= largest), default=-1) == min(largest, count - 1)
    assert len(tried) <= math.floor(math.log2(count)) + 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({}, "target-missing"),
        ({"max_latency_ms": 0}, "invalid-target"),
        ({"max_latency_ms": math.nan}, "invalid-target"),
        ({"max_latency_ms": -3}, "invalid-target"),
        ({"min_images_per_s": math.inf}, "invalid-target"),
        ({"max_latency_ms": 10, "min_accuracy": 1}, "invalid-accuracy-target"),
        ({"max_latency_ms": 10, "batch": 0}, "invalid-batch"),
        ({"max_latency_ms": 10, "batch": 2.5}, "invalid-batch"),
        ({"max_latency_ms": 10, "batch": "many"}, "invalid-batch"),
        ({"max_latency_ms": 10, "precision": "fp64"}, "unknown-precision"),
        ({"max_latency_ms": 10, "axis": "foo"}, "unknown-axis"),
        ({"max_latency_ms": 10, "records": "nowhere"}, "record-not-found"),
        ({"max_latency_ms": 10, "phi_step": 0}, "invalid-phi-step"),
        ({"max_latency_ms": 10, "phi_step": math.nan}, "invalid-phi-step"),
        ({"max_latency_ms": 10, "percentile": 0}, "invalid-percentile"),
        ({"max_latency_ms": 10, "percentile": 101}, "invalid-percentile"),
    ],
)
def test_an_argument_out_of_range_is_rejected(arguments, code):
    with refuses(code):
        fit_phi("T4", **arguments)


def test_a_gpu_with_too_few_facts_is_rejected():
    with refuses("gpu-facts-missing"):
        fit_phi("RTX 5090", max_latency_ms=10)


def test_the_cpu_is_measured(tiny):
    fit = fit_phi(
        "cpu", max_latency_ms=1e-3, phi_step=7, family=tiny
    )  # nothing is that fast, which one measurement shows
    assert fit.chosen is None
    assert [(each.phi, each.latency.evidence) for each in fit.candidates] == [(0, "measured")]
    assert fit.candidates[0].latency.expected_ms > 1e-3
    assert fit.precision == "fp32"


def test_local_is_rejected_on_a_machine_without_a_gpu(workplace):
    from deploykit.util.local_gpu import local_gpu

    if local_gpu() is not None:
        pytest.skip("this machine has a GPU")
    with refuses("gpu-not-found"):
        fit_phi("local", max_latency_ms=10)


# ---------------------------------------------------------------- more targets


def test_memory_is_weights_plus_the_largest_set_of_live_activations():
    # Two convolutions of 8x8: the image (3 channels), 4, then 5 channels; bias-free of norms.
    net = NetworkBuilder(8)
    net.conv("a", 4)
    net.activation("relu")  # in place
    net.conv("b", 5)
    network = net.network("tiny")
    weights = (3 * 4 + 4) + (4 * 5 + 5)
    assert estimate_memory_bytes(network, stored="fp32", batch=1) == 4 * (weights + (4 + 5) * 64)
    assert estimate_memory_bytes(network, stored="fp16", batch=3) == 2 * (weights + 3 * (4 + 5) * 64)


def test_a_shortcut_stays_alive_until_it_is_added():
    net = NetworkBuilder(8)
    shortcut = net.conv("a", 4)
    net.conv("b", 16)
    main = net.conv("c", 4)
    net.add("add", main, shortcut)
    weights = 16 + 4 * 16 + 16 + 16 * 4 + 4
    assert estimate_memory_bytes(net.network("tiny"), stored="int8", batch=1) == weights + (4 + 16 + 4) * 64


@pytest.mark.parametrize("gpu", ["P4", "V100", "T4"])
def test_int8_takes_half_the_memory_of_fp16_only_with_int8_tensor_cores(gpu):
    """Latency on a P4 and a V100 is predicted for FP16 storage too: docs/cost-model.md."""
    member, batch = choose_member(phi=0), 8
    taken = fit_phi(gpu, max_latency_ms=100, precision="int8", batch=batch).candidates[0].memory_bytes
    assert taken == estimate_memory_bytes(
        member.network(), stored="int8" if gpu == "T4" else "fp16", batch=batch
    )


def test_a_memory_limit_excludes_larger_networks():
    free = fit_phi("A100", max_latency_ms=1000, batch=64)
    limit = free.candidates[3].memory_bytes
    tight = fit_phi("A100", max_latency_ms=1000, batch=64, max_memory_bytes=limit)
    assert (free.chosen.phi, tight.chosen.phi) == (7, 3)
    assert tight.candidates[4].misses == ("memory",)


def test_nothing_fits_if_the_accuracy_target_needs_more_latency():
    """B6 and B7 have 84.0 and 84.3 %: tensorflow/tpu, efficientnet/README.md."""
    fit = fit_phi("T4", max_latency_ms=10, min_accuracy=0.84)
    assert fit.chosen is None
    assert (fit.nearest_miss.phi, fit.nearest_miss.misses) == (6, ("latency",))
    assert any("--precision int8" in sentence for sentence in fit.advice)
    assert fit_phi("T4", max_latency_ms=20, min_accuracy=0.84).chosen.phi == 6


def test_a_known_accuracy_is_a_nearer_miss_than_an_unknown_one():
    fit = fit_phi("T4", max_latency_ms=10, min_accuracy=0.7, family="resnet18")  # which has 69.8 %
    assert (fit.nearest_miss.phi, fit.nearest_miss.misses) == (0, ("accuracy",))
    assert fit_phi("T4", max_latency_ms=10, min_accuracy=0.9).nearest_miss.phi == 7


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_member_meets_its_own_published_accuracy_in_any_notation(name):
    for published in FAMILIES[name].accuracy.values():
        percent = f"{100 * published.value:.6g}"
        for text in (f"{percent}%", percent, f"{float(percent) / 100:.8g}"):
            assert parse_fraction(text) == published.value, text
        targets = Targets(max_latency_ms=1, min_accuracy=float(percent) / 100)
        assert targets.is_accurate_enough(published.value)
    if name == "efficientnet":
        assert {0.771, 0.791, 0.801} <= {each.value for each in FAMILIES[name].accuracy.values()}


def test_between_published_members_accuracy_is_that_of_the_smaller_one():
    fit = fit_phi("T4", max_latency_ms=10, phi_step=0.5)
    accuracy = {each.phi: each.accuracy for each in fit.candidates}
    assert accuracy[4.5] == accuracy[4] < accuracy[5]


def test_an_accuracy_target_needs_a_family_with_published_accuracies(tiny):
    with refuses("accuracy-not-published"):
        fit_phi("T4", max_latency_ms=10, min_accuracy=0.7, family=tiny)


# ---------------------------------------------------------------- precision, axis


def test_best_chooses_int8_on_a_t4_and_fp16_on_a_v100():
    on_t4, on_v100 = (fit_phi(gpu, max_latency_ms=10, precision="best") for gpu in ("T4", "V100"))
    assert (on_t4.precision, on_t4.alternative.precision) == ("int8", "fp16")
    assert on_t4.chosen.phi > on_t4.alternative.chosen.phi
    assert on_v100.precision == "fp16"  # whose tensor cores have no INT8


def test_best_skips_a_precision_that_cannot_be_predicted():
    """A P4 has no tensor cores: gpus.toml has no FP16 peak of it."""
    fit = fit_phi("P4", max_latency_ms=10, precision="best")
    assert (fit.precision, fit.alternative) == ("int8", None)
    assert any(note.startswith("FP16 was not compared") and "P4" in note for note in fit.notes)
    assert fit.chosen == fit_phi("P4", max_latency_ms=10, precision="int8").chosen


@pytest.mark.parametrize("axis", ["depth", "width", "side"])
def test_one_axis_alone_has_as_much_work_as_compound_scaling(axis):
    compound = fit_phi("A100", max_latency_ms=3, phi_step=1)
    alone = fit_phi("A100", max_latency_ms=3, phi_step=1, axis=axis)
    family = find_family("efficientnet")
    assert alone.axis == axis
    for one, other in zip(alone.candidates, compound.candidates, strict=False):
        assert family.network(one.scale).macs == pytest.approx(family.network(other.scale).macs, rel=0.05)
        assert one.phi == 0 or stretched_axis(one.scale) == axis


def test_phis_that_one_axis_cannot_match_are_left_out_with_a_note():
    fit = fit_phi("A100", max_latency_ms=30, axis="depth")
    assert [each.phi for each in fit.candidates] == [0, 1, 2, 3, 4, 5]
    assert fit.notes[0].startswith("Depth alone cannot reach the work of phi 6")


def test_a_percentile_has_no_effect_on_predictions_and_a_note_says_so():
    assert fit_phi("T4", max_latency_ms=10).notes == ()
    (note,) = fit_phi("T4", max_latency_ms=10, percentile=99).notes
    assert note.startswith("--percentile 99 has no effect")


def test_a_folder_is_rejected_if_nothing_is_measured():
    with refuses("option-not-applicable") as caught:
        fit_phi("T4", max_latency_ms=10, folder="here")
    assert "--records" in caught.value.fix


def test_one_axis_is_tried_in_steps_up_to_its_largest_phi():
    fit = fit_phi("A100", max_latency_ms=300, axis="depth", phi_step=0.1)
    assert [each.phi for each in fit.candidates] == [0, 1, 2, 3, 4, 5, 5.1, 5.2, 5.3]
    assert fit.chosen.phi == 5.3


def test_predictions_for_an_unpublished_precision_come_with_a_note():
    (note,) = fit_phi("T4", max_latency_ms=20, precision="fp32").notes
    assert note.startswith("No FP32 latency was published")
