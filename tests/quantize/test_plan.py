from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from refusals import refuses
from small_models import MACS, colour_blocks, colour_ranges
from solid_colours import write_images

import deploykit
from deploykit.data.preprocessing import Overrides
from deploykit.networks.model_info import read_model_info
from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.calibration.method_choice import ErrorSum, MethodChoice, MethodScore
from deploykit.quantize.calibration.methods import named_method
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.calibration.tensor_statistics import sample_batch
from deploykit.quantize.float_fallback import DEFAULT_FLOAT_BUDGET, FloatFallback
from deploykit.quantize.int8_options import DEFAULT_MAX_DROP, Int8Options
from deploykit.quantize.placement import Policy
from deploykit.quantize.plan import Int8Plan, plan_int8

CLIPPED = {"blocks.0.relu": 0.3}
"""Two of the five images are answered wrongly: see test_gate."""


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the current folder, with five labelled images in images/."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    return colour_blocks(tmp_path / "model.onnx")


def saved(ranges: Ranges, name: str = "r.json") -> Path:
    ranges.save(Path(name))
    return Path(name)


def planned(
    model: Path,
    options: Int8Options,
    *,
    policy: Policy = "all-conv",
    notes: list[str] | None = None,
    steps: list[str] | None = None,
) -> Int8Plan:
    graph = read_model(model)
    return plan_int8(
        model,
        graph,
        read_model_info(graph),
        options,
        policy=policy,
        note=(notes if notes is not None else []).append,
        progress=lambda what, *_: (steps if steps is not None else []).append(what),
    )


@pytest.mark.parametrize("float_budget", [-0.01, 1.01, float("nan"), float("inf")])
def test_an_invalid_float_budget_is_refused(float_budget):
    with refuses("invalid-float-budget") as caught:
        Int8Options(float_budget=float_budget)
    assert "--int8-float-budget 10" in caught.value.fix


@pytest.mark.parametrize("max_drop", [-0.1, 100.1, float("nan"), float("inf")])
def test_an_invalid_bound_is_refused(max_drop):
    with refuses("invalid-max-drop") as caught:
        Int8Options(max_drop=max_drop, eval_data="images")
    assert "--max-drop 0.5" in caught.value.fix


@pytest.mark.parametrize("max_drop", [0, 0.5, 100])
def test_a_bound_without_labelled_images_is_refused(max_drop):
    with refuses("option-incomplete") as caught:
        Int8Options(max_drop=max_drop)
    assert "--eval" in caught.value.fix
    assert Int8Options(max_drop=max_drop, eval_data="images").max_drop == max_drop


def test_notes_say_where_the_ranges_come_from_and_what_is_in_int8(model):
    notes: list[str] = []
    plan = planned(model, Int8Options(ranges=saved(colour_ranges(model))), notes=notes)
    assert notes == [
        "Ranges: r.json, from 1 images of by hand (max).",
        "INT8 policy all-conv: 3 convolutions and linear layers, 100.0 % of the multiply-accumulates.",
    ]
    assert plan.summary.policy == "all-conv"
    assert (plan.summary.method, plan.summary.share) == ("max", 1)
    assert (plan.summary.left_out, plan.summary.excluded, plan.summary.drop) == ((), (), None)


def test_layers_are_included_and_excluded_by_pattern(model):
    ranges = saved(colour_ranges(model))
    plan = planned(model, Int8Options(ranges=ranges, exclude=("blocks.1.*",)))
    assert [node.output for node in plan.placement.products] == ["blocks.0.conv", "logits"]
    assert plan.summary.share == pytest.approx(1 - MACS["blocks.1"] / sum(MACS.values()))
    plan = planned(model, Int8Options(ranges=ranges, include=("blocks.0.*",)), policy="bandwidth")
    assert len(plan.placement.products) == 3


def test_a_pattern_that_matches_nothing_is_refused_before_anything_is_calibrated(model):
    steps: list[str] = []
    with refuses("unknown-layer"):
        planned(model, Int8Options(data="images", exclude=("conv_steam",)), steps=steps)
    assert steps == []


def noisy(model: Path) -> Ranges:
    """Nearly all the noise is the classifier's, which does next to no work."""
    noise = {"input": 0.001, "blocks.0.relu": 0.002, "flat": 0.5}
    choice = MethodChoice(
        scores=(MethodScore(method=named_method("max"), error=ErrorSum(total=0.5, images=1)),),
        noise={name: ErrorSum(total=total, images=1) for name, total in noise.items()},
    )
    return replace(colour_ranges(model), choice=choice)


def test_the_float_fallback_is_chosen_and_noted(model):
    notes: list[str] = []
    plan = planned(model, Int8Options(ranges=saved(noisy(model))), notes=notes)
    assert plan.float_fallback.outputs == ("logits",)
    assert plan.summary.left_out == ("logits",)
    (sentence,) = [note for note in notes if note.startswith("Left in float")]
    assert sentence == (
        "Left in float for accuracy: logits; 0.8 % of the multiply-accumulates, 99 % of the noise."
    )


def test_a_float_budget_of_zero_disables_the_fallback(model):
    plan = planned(model, Int8Options(ranges=saved(noisy(model)), float_budget=0))
    assert plan.float_fallback == FloatFallback()
    assert len(plan.placement.products) == 3


def with_outliers(model: Path, outliers: dict[str, float]) -> Ranges:
    """Of 2,000 values from 0 to 1 and one outlier, tensor by tensor, read off by the 99th percentile."""
    ranges = colour_ranges(model)
    for name, outlier in outliers.items():
        values = np.append(np.linspace(0, 1, 2000), outlier).astype(np.float32)
        ranges.statistics[name].add(sample_batch(values.reshape(1, -1)))
    return replace(ranges, method=named_method("percentile", 99.0))


def test_tensors_clipped_to_under_half_are_noted_worst_first(model):
    ranges = with_outliers(model, {"input": 100, "blocks.0.relu": 50, "flat": 1})
    notes: list[str] = []
    planned(model, Int8Options(ranges=saved(ranges)), notes=notes)
    (sentence,) = [note for note in notes if note.startswith("Clipped")]
    assert "(percentile 99): 2 of 3 tensors" in sentence
    assert "most of all input (to 1 %), blocks.0.relu (to 2 %)." in sentence


def test_clipped_tensors_outside_int8_need_no_note(model):
    ranges = with_outliers(model, {"input": 1, "blocks.0.relu": 1, "flat": 100})
    notes: list[str] = []
    planned(model, Int8Options(ranges=saved(ranges), exclude=("logits",)), notes=notes)
    assert not any(note.startswith("Clipped") for note in notes)


def test_without_labelled_images_there_is_no_gate(model):
    plan = planned(model, Int8Options(ranges=saved(colour_ranges(model, CLIPPED))))
    assert plan.gate is None
    assert len(plan.placement.products) == 3


def test_the_gate_moves_blocks_to_float_and_notes_them(model):
    notes: list[str] = []
    options = Int8Options(ranges=saved(colour_ranges(model, CLIPPED)), eval_data="images", max_drop=10)
    plan = planned(model, options, notes=notes)
    assert plan.summary.excluded == ("blocks.1",)
    assert plan.summary.drop == 0
    assert plan.placement == plan.gate.placement
    assert notes[-1] == (
        "Top-1 dropped by 40.00 points on 5 images, and by 0.00 with blocks.1 left in float, another "
        "49.6 % of the multiply-accumulates: 50.4 % are in INT8. So large a drop suggests that the "
        "calibration images are unlike these, or that max suits them badly: try auto."
    )


def test_a_rise_of_top1_is_noted_as_a_rise(model):
    notes: list[str] = []
    pixels = np.broadcast_to(np.array([204, 255, 0], np.uint8), (4, 8, 8, 3))
    np.savez("wrong.npz", images=pixels, labels=np.zeros(4, int))  # red, where there is more green
    ranges = saved(colour_ranges(model, {"blocks.0.relu": 0.7}))
    planned(model, Int8Options(ranges=ranges, eval_data="wrong.npz", max_drop=0), notes=notes)
    assert notes[-1].startswith("Top-1 rises by 100.00 points on 4 images")


def test_ranges_with_different_preprocessing_are_noted(model):
    notes: list[str] = []
    ranges = colour_ranges(model)
    planned(model, Int8Options(ranges=saved(ranges)), notes=notes)
    assert not any("different preprocessing" in note for note in notes)
    other = replace(ranges, preprocessing=replace(ranges.preprocessing, mean=(0.5, 0.5, 0.5)))
    planned(model, Int8Options(ranges=saved(other)), notes=notes)
    assert any("different preprocessing than the model's" in note for note in notes)


def test_an_unknown_policy_is_refused_with_the_known_ones():
    with refuses("unknown-policy") as caught:
        Int8Options(policy="x")
    assert "pointwise, dense, bandwidth, all-conv" in caught.value.fix


def test_the_gate_says_by_how_much_top1_drops_within_the_bound(model):
    notes: list[str] = []
    options = Int8Options(ranges=saved(colour_ranges(model, CLIPPED)), eval_data="images", max_drop=40)
    assert planned(model, options, notes=notes).summary.drop == 40
    assert notes[-1] == "Top-1 drops by 40.00 points on 5 images; a drop of 40 is allowed."


def test_without_a_bound_the_gate_allows_half_a_point(model):
    assert DEFAULT_MAX_DROP == 0.5
    options = Int8Options(ranges=saved(colour_ranges(model, CLIPPED)), eval_data="images")
    assert planned(model, options).summary.excluded == ("blocks.1",)


def test_eval_confirms_the_gates_result(model):
    options = Int8Options(ranges=saved(colour_ranges(model, CLIPPED)), eval_data="images", max_drop=10)
    plan = planned(model, options)
    onnx.save(plan.apply(read_model(model)), "q.onnx")
    measured = deploykit.evaluate_model("q.onnx", "images", reference=model)
    assert measured.scores.top1.value == measured.scores.reference_top1.value == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("nowhere", "file-not-found"),
        ("flat", "images-unlabelled"),
        ("wrong.npz", "class-count-mismatch"),
    ],
)
def test_unusable_gate_images_are_refused_before_calibration(model, data, code):
    write_images(Path("flat"), labelled=False)
    np.savez("wrong.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array([0, 7]))
    steps: list[str] = []
    with refuses(code):
        planned(model, Int8Options(data="images", eval_data=data), steps=steps)
    assert steps == []


# Divided by 0.5 the values are twice as large, and clipped at 1 what was above 0.5: (0.8, 1, 0) is lost.
def test_the_gate_uses_the_preprocessing_of_the_ranges(model):
    ranges = colour_ranges(model, {"blocks.0.relu": 1.0})
    doubled = replace(ranges, preprocessing=replace(ranges.preprocessing, std=(0.5, 0.5, 0.5)))
    options = Int8Options(ranges=saved(doubled), eval_data="images", max_drop=100)
    assert planned(model, options).gate.top1_drop == pytest.approx(20)


def test_unreadable_images_are_skipped_on_request(model):
    Path("images/a/0.png").write_bytes(b"no image")
    with refuses("image-unreadable"):
        planned(model, Int8Options(ranges=saved(colour_ranges(model)), eval_data="images"))
    notes: list[str] = []
    options = Int8Options(data="images", eval_data="images", skip_bad=True, max_drop=50)
    plan = planned(model, options, notes=notes)
    assert (plan.ranges.images, plan.gate.images) == (4, 4)
    assert any("0.png" in note for note in notes)


def test_overrides_reach_calibration_and_gate(model):
    doubled = Overrides(std=(0.5, 0.5, 0.5))
    options = Int8Options(data="images", eval_data="images", overrides=doubled, max_drop=100)
    plan = planned(model, options)
    assert plan.ranges.preprocessing.std == (0.5, 0.5, 0.5)
    assert plan.ranges.statistics["input"].high == 2
    assert plan.gate.top1_drop == 0


def test_options_are_public_and_the_float_budget_is_ten_percent():
    assert deploykit.Int8Options is Int8Options
    assert Int8Options().float_budget == DEFAULT_FLOAT_BUDGET == 0.1
