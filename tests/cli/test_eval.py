"""`deploykit eval` from the command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from solid_colours import SIDE_PX, write_fp32, write_images, write_int8

import deploykit
from deploykit.bench.accuracy_record import AccuracyRecord
from deploykit.bench.record_file import read_any_record
from deploykit.util.atomic_files import file_sha256


@pytest.fixture(autouse=True)
def models(run, tmp_path):
    """Two models and five labelled images in the current folder."""
    write_int8(tmp_path / "model.int8.onnx", of=write_fp32(tmp_path / "model.onnx"))
    write_images(tmp_path / "images")


# Wilson's intervals of 4 and 5 of 5, from statsmodels 0.14: 0.3755 to 0.9638, and 0.5655 to 1.
def test_it_prints_accuracy_loss_and_how_it_was_computed(run):
    shown = run("eval", "model.int8.onnx", "--data", "images")
    assert shown.status == 0
    assert shown.out.startswith("model.int8.onnx: INT8 on 5 images of images\n")
    for name, value in {
        "top-1": r"80\.00 % +37\.55 to 96\.38 %",
        "top-1 of FP32": r"100\.00 % +56\.55 to 100\.00 %",
        "agreement with FP32": r"80\.00 % +37\.55 to 96\.38 %",
        "drop of top-1": r"\+20\.00 points +-\d+\.\d\d to \+\d+\.\d\d points",
        "SQNR of the logits": r"11\.6 dB",
        "SQNR of the median image": r"no difference",
    }.items():
        assert re.search(rf"^{re.escape(name)} +{value} *$", shown.out, re.MULTILINE), name
    assert "top-5" not in shown.out
    assert "within the uncertainty" in shown.out
    assert "FP32: model.onnx\n" in shown.out
    assert "TensorRT's arithmetic" in shown.out
    assert shown.err == ""


def test_json_has_fractions_intervals_and_where_they_come_from(run):
    shown = json.loads(run("eval", "model.int8.onnx", "--data", "images", "--json").out)
    assert shown["top1"] == pytest.approx({"value": 0.8, "low": 0.3755, "high": 0.9638}, abs=5e-5)
    assert shown["top1_drop"]["value"] == pytest.approx(0.2)
    assert shown["sqnr_db"] == pytest.approx(11.5635, abs=1e-4)  # 10 log10 (5.16 / 0.36)
    expected = {"arithmetic": "tensorrt", "reference": "model.onnx", "top5": None, "images": 5, "skipped": 0}
    assert {key: shown[key] for key in expected} == expected


def test_json_of_equal_outputs_is_json(run):
    def refuse(constant):
        raise ValueError(constant)

    shown = run("eval", "model.onnx", "--data", "images", "--reference", "model.onnx", "--json").out
    assert json.loads(shown, parse_constant=refuse)["sqnr_db"] is None
    assert "no difference" in run("eval", "model.onnx", "--data", "images", "--reference", "model.onnx").out


def test_a_significant_drop_is_reported(run, tmp_path):
    pixels = np.broadcast_to(np.array([204, 255, 0], np.uint8), (20, SIDE_PX, SIDE_PX, 3))
    np.savez(tmp_path / "green.npz", images=pixels, labels=np.ones(20, int))
    assert (
        "drop of top-1 is statistically significant"
        in run("eval", "model.int8.onnx", "--data", "green.npz").out
    )
    np.savez(tmp_path / "red.npz", images=pixels, labels=np.zeros(20, int))
    assert (
        "gain of top-1 is statistically significant"
        in run("eval", "model.int8.onnx", "--data", "red.npz").out
    )


def test_a_cpu_engine_says_that_the_runtime_computed_it(run, tmp_path):
    deploykit.build_engine(onnx=tmp_path / "model.onnx", gpu="cpu", output=tmp_path / "engine.onnx")
    shown = run("eval", "engine.onnx", "--data", "images")
    assert "engine.onnx: FP32 on 5 images" in shown.out
    assert "FP32: model.onnx\n" in shown.out
    assert "runtime: ONNX Runtime on this CPU, in FP32" in shown.out


def test_images_are_counted_limited_and_skipped(run, tmp_path):
    assert "on 1 image of images" in run("eval", "model.onnx", "--data", "images", "--images", "1").out
    (tmp_path / "images" / "a" / "0.png").write_text("no image")
    shown = run("eval", "model.onnx", "--data", "images", "--skip-bad")
    assert "on 4 images of images" in shown.out
    assert re.search(r"^note: Skipped: .*0\.png", shown.err, re.MULTILINE)


def test_preprocessing_can_be_set(run):
    shown = run("eval", "model.onnx", "--data", "images", "--mean", "0.5,0.5,0.5", "--json").out
    assert json.loads(shown)["preprocessing"]["mean"] == [0.5, 0.5, 0.5]


BAD_INPUT = {
    "no model": (("none.onnx", "--data", "images"), "model-not-found", ""),
    "a folder": (("images", "--data", "images"), "model-not-found", ""),
    "an image": (("images/a/0.png", "--data", "images"), "model-damaged", ""),
    "an engine without its manifest": (("lone.engine", "--data", "images"), "manifest-not-found", ""),
    "no images": (("model.onnx",), "usage", "'--data'"),
    "a missing folder": (("model.onnx", "--data", "nowhere"), "file-not-found", ""),
    "an empty folder": (("model.onnx", "--data", "empty"), "images-missing", ""),
    "no images at all": (("model.onnx", "--data", "images", "--images", "0"), "invalid-image-count", ""),
    "nothing to measure": (("model.onnx", "--data", "generated", "--images", "2"), "images-unlabelled", ""),
    "no reference": (
        ("model.onnx", "--data", "images", "--reference", "x.onnx"),
        "model-not-found",
        "",
    ),
    "another arithmetic": (("model.onnx", "--data", "images", "--arithmetic", "exact"), "usage", "'exact'"),
    "a mean of two": (("model.onnx", "--data", "images", "--mean", "1,2"), "invalid-option-value", ""),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_with_a_fix_and_writes_nothing(run, tmp_path, case):
    (tmp_path / "empty").mkdir()
    (tmp_path / "lone.engine").write_bytes(b"plan")
    before = sorted(tmp_path.rglob("*"))
    arguments, code, value = BAD_INPUT[case]
    shown = run("eval", *arguments)
    assert (shown.status, shown.out) == (2, "")
    problem, fix = shown.err.splitlines()
    assert shown.code == code
    assert value in problem
    assert fix.startswith("  fix: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_top1_record_names_the_model_and_its_fp32_source(run, tmp_path):
    shown = run("eval", "model.int8.onnx", "--data", "images", "-o", "records")
    (path,) = Path("records").iterdir()
    assert shown.out.endswith(f"\nrecord: {path}\n")
    int8 = read_any_record(path)
    assert (int8.model, int8.precision, int8.data, int8.images) == ("model.int8.onnx", "int8", "images", 5)
    assert int8.top1.value == pytest.approx(0.8)
    assert (int8.sha256, int8.onnx_sha256) == tuple(
        map(file_sha256, (tmp_path / "model.int8.onnx", tmp_path / "model.onnx"))
    )
    fields = json.loads(run("eval", "model.onnx", "--data", "images", "-o", "fp32", "--json").out)
    fp32 = read_any_record(fields["record"])
    assert fp32.onnx_sha256 == fp32.sha256 == int8.onnx_sha256


def test_image_sets_are_identified_by_their_images_and_labels(run, tmp_path):
    def recorded(folder: str) -> AccuracyRecord:
        fields = json.loads(run("eval", "model.onnx", "--data", "images", "-o", folder, "--json").out)
        found = read_any_record(fields["record"])
        assert isinstance(found, AccuracyRecord)
        return found

    once, again = recorded("once"), recorded("again")
    first = min((tmp_path / "images").rglob("*.png"))
    first.write_bytes(max((tmp_path / "images").rglob("*.png")).read_bytes())
    other = recorded("other")
    assert once.images_sha256 == again.images_sha256 != other.images_sha256
    assert once.data_sha256 == other.data_sha256


def test_a_top1_record_needs_labels(run, tmp_path):
    np.savez(tmp_path / "bare.npz", images=np.zeros((3, SIDE_PX, SIDE_PX, 3), np.uint8))
    refused = run("eval", "model.int8.onnx", "--data", "bare.npz", "-o", "records")
    assert refused.status == 2
    assert refused.out == ""  # nothing was evaluated
    assert refused.code == "images-unlabelled"
    assert not Path("records").exists()
