"""The largest phi for a target: decided, predicted, measured."""

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deploykit.architecture.builder import NetworkBuilder
from deploykit.architecture.families import FAMILIES, find_family
from deploykit.architecture.member import choose_member
from deploykit.cli.units import fraction
from deploykit.errors import DeployError
from deploykit.fit.batch import candidate_at
from deploykit.fit.goal import Goal
from deploykit.fit.grid import BATCHES, at_the_edge, bisect_largest, phi_grid
from deploykit.fit.memory import estimated_bytes
from deploykit.fit.question import Question
from deploykit.fit.run import fit_phi
from deploykit.latency import Latency
from deploykit.scaling import axis_of

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
    fit = fit_phi("A100", max_latency_ms=5)
    assert [each.phi for each in fit.candidates] == list(range(8))
    assert {each.latency.evidence for each in fit.candidates} == {"predicted"}


def test_both_targets_must_be_met():
    goal = Goal(max_latency_ms=10, min_images_per_s=150)
    assert goal.is_met(latency_ms=6, images_per_s=167)
    assert not goal.is_met(latency_ms=8, images_per_s=125)
    assert not goal.is_met(latency_ms=11, images_per_s=182)


@pytest.mark.parametrize(
    ("step", "grid"),
    [(1, (0, 1, 2, 3, 4, 5, 6, 7)), (3, (0, 3, 6, 7)), (7, (0, 7)), (2.5, (0, 2.5, 5, 7))],
)
def test_the_grid_has_both_ends(step, grid):
    assert phi_grid(step, (0.0, 7.0)) == grid


def test_a_grid_of_small_steps_has_the_published_members_too():
    assert phi_grid(0.3, (0.0, 2.0)) == (0, 0.3, 0.6, 0.9, 1, 1.2, 1.5, 1.8, 2)
    assert phi_grid(0.7, (0.0, 3.0)) == (0, 0.7, 1, 1.4, 2, 2.1, 2.8, 3)


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


def test_fractions_are_looked_at_around_the_edge_alone():
    fit = fit_phi("T4", max_latency_ms=10, phi_step=0.25)
    assert [each.phi for each in fit.candidates] == [0, 1, 2, 3, 4, 4.25, 4.5, 4.75, 5, 6, 7]
    assert 4 < fit.chosen.phi < 5
    everywhere = [
        fit_phi("T4", max_latency_ms=10, phi_step=0.25, optimistic=True).chosen.phi,
        fit_phi("T4", max_latency_ms=10, optimistic=True).chosen.phi,
    ]
    assert everywhere[0] >= everywhere[1]


def test_there_is_no_edge_where_all_or_nothing_fits():
    assert at_the_edge((0, 0.5, 1, 1.5, 2), (0, 1, 2), 1) == [1.5]
    assert at_the_edge((0, 0.5, 1), (0, 1), 1) == []
    assert at_the_edge((0, 0.5, 1), (0, 1), None) == []


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
        ({"max_latency_ms": 10, "batch": 2.5}, "batch of 2.5"),
        ({"max_latency_ms": 10, "batch": "many"}, "batch of many"),
        ({"max_latency_ms": 10, "precision": "fp64"}, "no precision fp64"),
        ({"max_latency_ms": 10, "axis": "foo"}, "no axis foo"),
        ({"max_latency_ms": 10, "records": "nowhere"}, "nowhere"),
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


def test_the_cpu_is_measured(workplace):
    fit = fit_phi("cpu", max_latency_ms=1e-3, phi_step=7)  # nothing is that fast: one measurement tells
    assert fit.chosen is None
    assert [(each.phi, each.latency.evidence) for each in fit.candidates] == [(0, "measured")]
    assert fit.candidates[0].latency.expected_ms > 1e-3
    assert fit.precision == "fp32"


def test_a_local_gpu_that_is_not_there_is_refused(workplace):
    from deploykit.local_gpu import local_gpu

    if local_gpu() is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeployError, match="no NVIDIA GPU"):
        fit_phi("local", max_latency_ms=10)


# ---------------------------------------------------------------- more targets


def test_memory_is_weights_and_what_is_alive_at_once():
    # Two convolutions of 8x8: the image (3 channels), 4, then 5 channels; bias-free of norms.
    net = NetworkBuilder(8)
    net.conv("a", 4)
    net.activation("relu")  # in place
    net.conv("b", 5)
    network = net.network("tiny")
    weights = (3 * 4 + 4) + (4 * 5 + 5)
    assert estimated_bytes(network, stored="fp32", batch=1) == 4 * (weights + (4 + 5) * 64)
    assert estimated_bytes(network, stored="fp16", batch=3) == 2 * (weights + 3 * (4 + 5) * 64)


def test_a_shortcut_stays_alive_until_it_is_added():
    net = NetworkBuilder(8)
    shortcut = net.conv("a", 4)
    net.conv("b", 16)
    main = net.conv("c", 4)
    net.add("add", main, shortcut)
    weights = 16 + 4 * 16 + 16 + 16 * 4 + 4
    assert estimated_bytes(net.network("tiny"), stored="int8", batch=1) == weights + (4 + 16 + 4) * 64


@pytest.mark.parametrize("gpu", ["P4", "V100", "T4"])
def test_int8_takes_half_the_memory_of_fp16_where_tensor_cores_have_it(gpu):
    """The latency of a P4's and a V100's is that of FP16 storage too: docs/cost-model.md."""
    member, batch = choose_member(phi=0), 8
    taken = fit_phi(gpu, max_latency_ms=100, precision="int8", batch=batch).candidates[0].memory_bytes
    assert taken == estimated_bytes(member.network(), stored="int8" if gpu == "T4" else "fp16", batch=batch)


def test_a_memory_limit_leaves_out_what_is_larger():
    free = fit_phi("A100", max_latency_ms=1000, batch=64)
    limit = free.candidates[3].memory_bytes
    tight = fit_phi("A100", max_latency_ms=1000, batch=64, max_memory_bytes=limit)
    assert (free.chosen.phi, tight.chosen.phi) == (7, 3)
    assert tight.candidates[4].misses == ("memory",)


def test_an_accuracy_that_the_budget_does_not_buy_fits_nothing():
    """B6 and B7 have 84.0 and 84.3 %: tensorflow/tpu, efficientnet/README.md."""
    fit = fit_phi("T4", max_latency_ms=10, min_accuracy=0.84)
    assert fit.chosen is None
    assert (fit.nearest_miss.phi, fit.nearest_miss.misses) == (6, ("latency",))
    assert any("--precision int8" in sentence for sentence in fit.advice)
    assert fit_phi("T4", max_latency_ms=20, min_accuracy=0.84).chosen.phi == 6


def test_an_accuracy_that_is_known_misses_by_less_than_one_that_is_not():
    fit = fit_phi("T4", max_latency_ms=10, min_accuracy=0.7, family="resnet18")  # which has 69.8 %
    assert (fit.nearest_miss.phi, fit.nearest_miss.misses) == (0, ("accuracy",))
    assert fit_phi("T4", max_latency_ms=10, min_accuracy=0.9).nearest_miss.phi == 7


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_an_accuracy_is_reached_by_what_was_published_with_it_however_it_is_written(name):
    for published in FAMILIES[name].accuracy.values():
        percent = f"{100 * published.value:.6g}"
        for text in (f"{percent}%", percent, f"{float(percent) / 100:.8g}"):
            assert fraction(text) == published.value, text
        goal = Goal(max_latency_ms=1, min_accuracy=float(percent) / 100)
        assert goal.is_accurate_enough(published.value)
    if name == "efficientnet":
        assert {0.771, 0.791, 0.801} <= {each.value for each in FAMILIES[name].accuracy.values()}


def test_between_published_members_accuracy_is_that_of_the_one_below():
    fit = fit_phi("T4", max_latency_ms=10, phi_step=0.5)
    accuracy = {each.phi: each.accuracy for each in fit.candidates}
    assert accuracy[4.5] == accuracy[4] < accuracy[5]


def test_an_accuracy_nobody_published_is_refused(tiny):
    with pytest.raises(DeployError, match="No accuracy of"):
        fit_phi("T4", max_latency_ms=10, min_accuracy=0.7, family=tiny)


# ---------------------------------------------------------------- batch, precision, axis, several GPUs


@pytest.mark.parametrize("gpu", GPUS)
def test_a_free_batch_meets_both_targets_and_is_no_larger_than_it_takes(gpu):
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


def test_a_free_batch_is_called_auto_too():
    assert fit_phi("T4", max_latency_ms=20, batch="auto") == fit_phi("T4", max_latency_ms=20, batch=None)


def test_a_free_batch_under_a_latency_alone_is_the_largest_that_holds_it():
    fit = fit_phi("T4", max_latency_ms=20, batch=None)
    for each in fit.candidates:
        if each.fits and each.batch < 256:
            double = fit_phi("T4", max_latency_ms=20, batch=2 * each.batch)
            assert not next(other for other in double.candidates if other.phi == each.phi).fits


@pytest.mark.parametrize(
    ("gpu", "max_latency_ms", "rate"), [("L4", 5, 3000), ("T4", None, 4000), ("A100", 3, 50_000)]
)
def test_where_no_batch_reaches_a_throughput_the_one_that_comes_nearest_is_shown(gpu, max_latency_ms, rate):
    fit = fit_phi(gpu, max_latency_ms=max_latency_ms, min_images_per_s=rate, batch=None)
    assert fit.chosen is None
    miss = fit.nearest_miss
    rates = {}
    for batch in BATCHES:
        latency = fit_phi(gpu, min_images_per_s=rate, batch=batch).candidates[0].latency
        if max_latency_ms is None or latency.high_ms <= max_latency_ms:
            rates[batch] = batch / latency.high_ms
    assert (miss.phi, miss.misses) == (0, ("throughput",))
    assert miss.batch == max(rates, key=rates.get) > 1


def test_where_no_batch_holds_the_latency_a_single_image_is_shown():
    fit = fit_phi("T4", max_latency_ms=1, min_images_per_s=100, batch=None)
    assert {each.batch for each in fit.candidates} == {1}


def test_no_batch_is_advised_that_takes_more_memory_than_allowed():
    roomy, tight = (
        fit_phi("T4", min_images_per_s=1500, max_memory_bytes=limit).advice for limit in (1e9, 30e6)
    )
    assert roomy[0].startswith("--batch 8 ")
    assert not any("--batch" in sentence for sentence in tight)


def test_the_better_precision_is_named_with_the_reason():
    on_t4, on_v100 = (fit_phi(gpu, max_latency_ms=10, precision="best") for gpu in ("T4", "V100"))
    assert (on_t4.precision, on_t4.rival.precision) == ("int8", "fp16")
    assert on_t4.chosen.phi > on_t4.rival.chosen.phi
    assert on_v100.precision == "fp16"  # whose tensor cores have no INT8


def test_the_better_precision_is_the_one_that_enough_is_known_for():
    """A P4 has no tensor cores: gpus.toml has no FP16 peak of it."""
    fit = fit_phi("P4", max_latency_ms=10, precision="best")
    assert (fit.precision, fit.rival) == ("int8", None)
    assert "FP16 was not compared: too little is known of the P4 for it." in fit.remarks
    assert fit.chosen == fit_phi("P4", max_latency_ms=10, precision="int8").chosen


@pytest.mark.parametrize("axis", ["depth", "width", "side"])
def test_one_axis_alone_has_as_much_work_as_the_compound(axis):
    compound = fit_phi("A100", max_latency_ms=3, phi_step=1)
    alone = fit_phi("A100", max_latency_ms=3, phi_step=1, axis=axis)
    family = find_family("efficientnet")
    assert alone.axis == axis
    for one, other in zip(alone.candidates, compound.candidates, strict=False):
        assert family.network(one.scale).macs == pytest.approx(family.network(other.scale).macs, rel=0.05)
        assert one.phi == 0 or axis_of(one.scale) == axis


def test_an_axis_that_can_not_follow_says_so():
    fit = fit_phi("A100", max_latency_ms=30, axis="depth")
    assert [each.phi for each in fit.candidates] == [0, 1, 2, 3, 4, 5]
    assert "No depth alone has as much work as phi 6" in fit.remarks[0]


def test_where_nothing_fits_it_says_what_would():
    *others, faster = fit_phi("T4", max_latency_ms=3, batch=8).advice
    assert others == [
        "--batch 4 is predicted to fit, for phi 0.",
        "--precision int8 is predicted to fit, for phi 0.",
    ]
    assert fit_phi("T4", max_latency_ms=3, batch=4).chosen.phi >= 0
    assert fit_phi("T4", max_latency_ms=3, batch=8).chosen is None
    assert fit_phi("T4", max_latency_ms=3, batch=8, precision="int8").chosen.phi >= 0
    named = faster.removeprefix("Predicted to fit, for phi 0: ").removesuffix(" and others.").split(", ")
    assert len(named) == 3
    for gpu in named:
        assert fit_phi(gpu, max_latency_ms=3, batch=8).chosen.phi >= 0
    assert fit_phi("T4", max_latency_ms=0.01).advice == ("No GPU that is known is predicted to fit.",)


def test_of_a_percentile_predictions_say_nothing():
    assert fit_phi("T4", max_latency_ms=10).remarks == ()
    (remark,) = fit_phi("T4", max_latency_ms=10, percentile=99).remarks
    assert "of p99 they say nothing" in remark


def test_a_folder_for_what_is_not_measured_is_refused():
    with pytest.raises(DeployError, match="nothing is kept in here") as caught:
        fit_phi("T4", max_latency_ms=10, folder="here")
    assert "--records" in caught.value.fix


def _gpus(sentence):
    return re.search(r"(?<=for phi )[\d.]+: (.*)\.", sentence)[1].removesuffix(" and others").split(", ")


CHANGES = {
    r"^--batch (\d+) is": lambda found: {"batch": int(found)},
    r"^--precision (\w+) is": lambda found: {"precision": found},
    r"--max-memory (\d+)MB(?: is|, predicted)": lambda found: {"max_memory_bytes": 1e6 * int(found)},
    r"--min-accuracy ([\d.]+)% fits": lambda found: {"min_accuracy": float(found) / 100},
}


def _changed(asked, sentence):
    """The questions that a sentence says have an answer."""
    changes = [make(found[1]) for what, make in CHANGES.items() if (found := re.search(what, sentence))]
    assert len(changes) <= 1, sentence
    changed = asked | (changes[0] if changes else {})
    if "redicted to fit, for phi" in sentence and "is predicted" not in sentence:
        return [changed | {"gpu": gpu} for gpu in _gpus(sentence)]
    return [changed] if changes else []


@pytest.mark.parametrize("min_accuracy", [None, 0.82, 0.9])
@pytest.mark.parametrize("max_memory_bytes", [None, 12e6, 60e6])
@pytest.mark.parametrize("max_latency_ms", [0.01, 3, 9])
@pytest.mark.parametrize(
    "batches", [{"batch": 1}, {"batch": 8}, {"batch": None, "min_images_per_s": 1000}], ids=str
)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_is_advised_fits(max_latency_ms, max_memory_bytes, min_accuracy, batches, precision):
    asked = {"gpu": "T4", "max_latency_ms": max_latency_ms, "max_memory_bytes": max_memory_bytes}
    asked |= {"min_accuracy": min_accuracy, "precision": precision, **batches}
    fit = fit_phi(**asked)
    assert (fit.chosen is None) == (fit.advice != ())
    for sentence in fit.advice:
        changed = _changed(asked, sentence)
        assert changed or sentence.startswith("No "), sentence
        for question in changed:
            assert fit_phi(**question).chosen is not None, sentence


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"max_latency_ms": 2, "min_images_per_s": 3000, "batch": None},
            r"Predicted to fit, for phi 0: A100 .*",
        ),
        (
            {"max_latency_ms": 1.5, "min_images_per_s": 1000, "batch": None},
            r"--precision int8 is predicted to fit, for phi 0\.",
        ),
        (
            {"max_latency_ms": 10, "batch": 64, "max_memory_bytes": 8e6},
            r"With --max-memory 204MB, predicted to fit, for phi 0: .*",
        ),
        (
            {"max_latency_ms": 10, "min_accuracy": 0.84, "max_memory_bytes": 50e6},
            r"With --max-memory 120MB, predicted to fit, for phi 6: .*",
        ),
        (
            {"max_latency_ms": 0.01, "max_memory_bytes": 1e6},
            r"No GPU that is known is predicted to fit, with --max-memory 14MB either\.",
        ),
        ({"max_latency_ms": 2, "precision": "fp32"}, r"--precision fp16 is predicted to fit, for phi 0\."),
    ],
)
def test_what_would_fit_is_advised(asked, sentence):
    fit = fit_phi("T4", **asked)
    assert any(re.fullmatch(sentence, each) for each in fit.advice), fit.advice


def test_what_was_compared_already_is_not_advised():
    assert any("int8" in sentence for sentence in fit_phi("T4", max_latency_ms=1.2).advice)
    compared = fit_phi("T4", max_latency_ms=0.7, precision="best")
    assert compared.chosen is None
    assert not any("int8" in sentence for sentence in compared.advice)


def test_one_axis_is_tried_in_steps_to_where_it_can_follow():
    fit = fit_phi("A100", max_latency_ms=300, axis="depth", phi_step=0.1)
    assert [each.phi for each in fit.candidates] == [0, 1, 2, 3, 4, 5, 5.1, 5.2, 5.3]
    assert fit.chosen.phi == 5.3


class Stopwatch:
    """A machine that takes so many ms a batch; by default its throughput ends to rise at batch 4."""

    title, measures, compared = "a machine", True, ("fp32",)

    def __init__(self, batch_ms=lambda batch: max(batch, 4)) -> None:
        self.asked: list[int] = []
        self.batch_ms = batch_ms

    def precision_for(self, asked):
        return asked or "fp32"

    def latency(self, member, *, precision, batch):
        self.asked.append(batch)
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


def measured_by(clock):
    """What a free batch is asked about."""
    return Question(
        clock=clock,
        gpu=None,
        precision="fp32",
        compared=("fp32",),
        family=find_family("efficientnet"),
        axis=None,
        goal=Goal(min_images_per_s=5000),
        batch=None,
        phi_step=1.0,
        percentile=90.0,
        optimistic=False,
    )


def test_a_free_batch_is_measured_until_throughput_rises_no_more():
    clock = Stopwatch()
    assert candidate_at(measured_by(clock), 0.0, choose_member(phi=0.0)).batch == 4
    assert clock.asked == [1, 2, 4, 8]


@pytest.mark.parametrize(("image_ms", "asked"), [(1, [1, 2]), (0.21, [1, 2, 4, 8, 16, 32, 64, 128, 256])])
def test_a_free_batch_is_measured_as_long_as_the_target_may_be_reached(image_ms, asked):
    """Ten ms a batch and one an image never make 5000 images a second: 1000 is the most."""
    clock = Stopwatch(lambda batch: 10 + image_ms * batch)
    candidate_at(measured_by(clock), 0.0, choose_member(phi=0.0))
    assert clock.asked == asked


def test_predictions_of_what_nobody_published_say_so():
    (remark,) = fit_phi("T4", max_latency_ms=20, precision="fp32").remarks
    assert remark.startswith("No FP32 latency was published")
