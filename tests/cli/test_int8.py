"""calibrate, quantize, sensitivity and build-engine --int8 from the command line.

The model is small_models', the images solid_colours'; clipped.json has it answer two of the five wrongly.
"""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

from deploykit.data.images.generated import draw_dead_leaves


@pytest.fixture(autouse=True)
def folder(int8_folder: Path) -> Path:
    return int8_folder


MODEL = ("--onnx", "model.onnx")
CALIBRATE = ("calibrate", *MODEL, "-o", "r.json")
QUANTIZE = ("quantize", *MODEL, "-o", "q.onnx")
SENSITIVITY = ("sensitivity", "model.onnx", "--data", "images")
BUILD = ("build-engine", "--int8", "--gpu", "cpu", *MODEL, "-o", "e.onnx")


def test_calibrate_prints_images_and_method(run):
    shown = run(*CALIBRATE, "--data", "flat", "--method", "max")
    assert shown.status == 0
    assert shown.out == "r.json: ranges of 3 tensors from 5 images\nmethod: max\n"
    notes = shown.err.splitlines()
    assert len(notes) == 1
    assert re.fullmatch(r"note: Using all 5 images .*512.*", notes[0])


def test_auto_prints_how_many_methods_it_compared(run):
    shown = run(*CALIBRATE, "--data", "generated", "--images", "12")
    assert shown.status == 0
    assert re.search(
        r"^method: .*, chosen among 10 by the output error on 3 other images$", shown.out, re.MULTILINE
    )
    assert "from 9 images" in shown.out


def test_calibrates_json_has_the_ranges_of_the_file(run, folder):
    shown = json.loads(run(*CALIBRATE, "--data", "generated", "--images", "12", "--json").out)
    file = json.loads((folder / "r.json").read_text())
    assert (shown["path"], shown["images"]) == ("r.json", 9)
    assert {name: [each["low"], each["high"]] for name, each in shown["ranges"].items()} == file["ranges"]
    assert len(shown["errors"]) == 10
    assert shown["method"] in shown["errors"]
    assert shown["errors"][shown["method"]] == min(shown["errors"].values())


# 20 of 255 is 7.84 %.
def test_clipped_tensors_are_printed(run, folder):
    pixels = np.full((60, 8, 8, 3), 20, np.uint8)
    pixels[:, 0, 0] = 10
    pixels[7] = 255
    np.savez(folder / "outlier.npz", images=pixels)
    arguments = (*CALIBRATE, "--data", "outlier.npz", "--images", "60", "--method", "peak-percentile")
    shown = run(*arguments)
    assert re.search(r"below half of the largest value: 3 tensors, most strongly .* \(to 7\.8 %\)", shown.out)
    assert json.loads(run(*arguments, "--json").out)["clipped"].keys() == {"input", "blocks.0.relu", "flat"}


def test_identical_images_get_a_note(run):
    shown = run(*CALIBRATE, "--data", "same.npz", "--images", "3", "--method", "max")
    assert shown.status == 0
    assert shown.err == "note: All 3 images are identical: the ranges describe a single image.\n"


def test_skip_bad_skips_unreadable_images_by_name(run):
    shown = run(*CALIBRATE, "--data", "broken", "--images", "5", "--method", "max", "--skip-bad")
    assert shown.status == 0
    assert "from 4 images" in shown.out
    (sentence,) = shown.err.splitlines()
    assert re.fullmatch(r"note: Skipped: .*2\.png.*", sentence)


def test_a_percentile_goes_with_its_methods(run, folder):
    for method in ("percentile", "peak-percentile"):
        shown = run(*CALIBRATE, "--data", "flat", "--method", method, "--percentile", "98.5")
        assert f"method: {method} 98.5\n" in shown.out
        file = json.loads((folder / "r.json").read_text())
        assert file["method"] == {"name": method, "percent": 98.5}


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated images as PNG: all, in two folders."""
    folder = tmp_path_factory.mktemp("halves")
    for half, numbers in {"a": range(9), "b": range(9, 24)}.items():
        (folder / half).mkdir()
        for number in numbers:
            Image.fromarray(draw_dead_leaves(64, number)).save(folder / half / f"{number}.png")
    return folder


@pytest.mark.parametrize("method", ["percentile", "peak-percentile"])
def test_merging_two_halves_equals_calibrating_on_both(run, folder, random_b0, halves, method):
    command = ("calibrate", "--onnx", str(random_b0.path), "--method", method)
    for name, data in {"a": halves / "a", "b": halves / "b", "all": halves}.items():
        assert run(*command, "--data", str(data), "-o", f"{name}.json").status == 0
    shown = run("calibrate", "--merge", "a.json", "b.json", "-o", "merged.json")
    assert (shown.status, shown.err) == (0, "")
    assert "from 24 images" in shown.out
    merged, whole = (json.loads((folder / f"{name}.json").read_text()) for name in ("merged", "all"))
    assert merged["sources"] == [str(halves / "a"), str(halves / "b")]
    assert {**merged, "sources": None} == {**whole, "sources": None}


def test_merged_ranges_can_use_another_method(run, folder):
    run("calibrate", *MODEL, "--data", "generated", "--images", "12", "-o", "a.json")
    run("calibrate", *MODEL, "--data", "flat", "-o", "b.json", "--method", "mse")
    assert run("calibrate", "--merge", "a.json", "b.json", "-o", "c.json").status == 2
    merged = run("calibrate", "--merge", "a.json", "b.json", "-o", "c.json", "--method", "entropy")
    assert (merged.status, "method: entropy\n" in merged.out) == (0, True)
    assert json.loads((folder / "c.json").read_text())["choice"] is None


def test_quantize_writes_int8_that_eval_measures(run, folder):
    shown = run(*QUANTIZE, "--ranges", "clipped.json")
    assert shown.status == 0
    assert shown.out == "q.onnx: 100.0 % of the multiply-accumulates in INT8\n"
    assert "Ranges: clipped.json, from 1 images of by hand (max)." in shown.err
    kinds = [node.op_type for node in onnx.load(folder / "q.onnx").graph.node]
    assert kinds.count("QuantizeLinear") == 3
    measured = json.loads(run("eval", "q.onnx", "--data", "images", "--json").out)
    assert measured["top1"]["value"] == pytest.approx(0.6)
    assert measured["reference"] == "model.onnx"


def test_quantize_calibrates_and_writes_next_to_the_model(run, folder):
    shown = json.loads(run("quantize", *MODEL, "--data", "flat", "--json").out)
    assert shown["path"] == "model.int8.onnx"
    assert shown["int8"]["policy"] == "dense"
    assert shown["int8"]["share"] >= 0.90  # at most 10 % are left out for accuracy
    assert (folder / "model.int8.onnx").is_file()


def test_random_weights_are_quantized_with_a_note(run):
    shown = run("quantize", "--onnx", "other.onnx")
    assert shown.status == 0
    assert "note: Random weights: calibrated on 4 generated images" in shown.err


def test_generated_images_for_trained_weights_are_noted(run):
    shown = run(*QUANTIZE, "--data", "generated")
    assert "note: Calibrating on generated images" in shown.err


def test_the_gate_names_the_blocks_it_leaves_in_float(run):
    shown = run(*QUANTIZE, "--ranges", "clipped.json", "--eval", "images", "--max-drop", "10")
    assert shown.status == 0
    assert (
        "Top-1 dropped by 40.00 points on 5 images, and by 0.00 with blocks.1 left in float, another 49.6 %"
        in shown.err
    )
    assert "50.4 % of the multiply-accumulates in INT8" in shown.out
    measured = json.loads(run("eval", "q.onnx", "--data", "images", "--json").out)
    assert measured["top1_drop"]["value"] == 0


def test_a_looser_gate_leaves_everything_in_int8(run):
    command = (*QUANTIZE, "--ranges", "clipped.json", "--eval", "images", "--max-drop", "40", "--json")
    shown = json.loads(run(*command).out)
    assert shown["int8"]["excluded"] == []
    assert shown["int8"]["drop"] == pytest.approx(40)
    assert shown["int8"]["share"] == 1


def test_build_engine_records_the_gates_decision(run):
    command = (*BUILD, "--ranges", "clipped.json", "--eval", "images", "--max-drop", "10", "--json")
    shown = run(*command)
    assert shown.status == 0, shown.err
    int8 = json.loads(shown.out)["manifest"]["int8"]
    assert (int8["excluded"], int8["drop"], int8["method"]) == (["blocks.1"], 0, "max")


def test_sensitivity_prints_the_costliest_block_first_and_the_total_last(run):
    shown = run(*SENSITIVITY, "--ranges", "clipped.json", "--int8-policy", "all-conv")
    assert shown.status == 0
    head, columns, *rows = shown.out.splitlines()
    assert head == "5 images, top-1 of FP32 100.00 %; one block in INT8 at a time, the costliest first"
    assert columns.split() == ["block", "MACs", "SQNR", "error", "top-1", "change"]
    assert [row.split()[0] for row in rows][::3] == ["blocks.1", "all"]
    assert re.search(r"^blocks\.1 +49\.6 % +\S+ dB +\S+ +█+ +-40\.00$", rows[0])
    assert re.search(r"^all +100\.0 % +\S+ dB +\S+ +█+ +-40\.00$", rows[-1])


def test_bars_begin_at_one_column(run):
    rows = run(*SENSITIVITY, "--ranges", "clipped.json", "--int8-policy", "all-conv").out.splitlines()[2:]
    assert len({row.index("█") for row in rows if "█" in row}) == 1


def test_sensitivity_without_labels_has_no_column_for_top1(run):
    shown = run("sensitivity", "model.onnx", "--data", "flat", "--ranges", "clipped.json")
    assert shown.status == 0
    assert "top-1" not in shown.out
    assert shown.out.startswith("5 images; one block")


def test_the_json_of_sensitivity_has_every_block(run):
    command = (*SENSITIVITY, "--ranges", "clipped.json", "--int8-policy", "all-conv", "--json")
    shown = json.loads(run(*command).out)
    assert (shown["images"], shown["top1"]) == (5, 1)
    assert len(shown["blocks"]) == 3
    assert shown["blocks"][0]["block"] == "blocks.1"
    assert shown["blocks"][0]["top1_change"] == pytest.approx(-40)
    assert shown["whole"]["block"] == "all"


def test_a_block_without_int8_error_is_exact(run, folder):
    np.savez(folder / "black.npz", images=np.zeros((3, 8, 8, 3), np.uint8))
    shown = run("sensitivity", "model.onnx", "--data", "black.npz", "--ranges", "sound.json")
    assert shown.status == 0
    assert "exact" in shown.out
    assert "█" not in shown.out


def test_sensitivity_measures_missing_ranges(run):
    shown = run(*SENSITIVITY, "--images", "4")
    assert shown.status == 0
    assert shown.out.startswith("4 images")


# Maximum calibration is ruined by images whose activations are fifty times the usual, see data/README.md.
def test_the_gate_keeps_a_trained_model_within_its_bound(run, shared, hard, validation, folder):
    model, count, max_drop = str(hard.path), 100, 3.0
    pixels, labels = validation.pixels[:count], validation.labels[:count]
    np.savez(folder / "val.npz", images=pixels, labels=labels)
    calibration = str(shared / "cifar10_calib.npz")
    run(
        "calibrate",
        "--onnx",
        model,
        "--data",
        calibration,
        "--images",
        "128",
        "--method",
        "max",
        "-o",
        "m.json",
    )
    command = ("quantize", "--onnx", model, "--ranges", "m.json", "-o", "q.onnx", "--json")
    shown = run(*command, "--eval", "val.npz", "--max-drop", str(max_drop))
    assert shown.status == 0, shown.err
    int8 = json.loads(shown.out)["int8"]
    assert int8["excluded"]
    assert ", ".join(int8["excluded"]) in shown.err
    inputs = hard.info.preprocessing.normalize(pixels)
    hits = [(_logits(path, inputs).argmax(axis=1) == labels).sum() for path in (hard.path, folder / "q.onnx")]
    assert 100 * (hits[0] - hits[1]) / count == pytest.approx(int8["drop"])
    assert int8["drop"] <= max_drop


def _logits(path: Path, inputs: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]
