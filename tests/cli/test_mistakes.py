"""How commands refuse wrong input."""

from pathlib import Path

import pytest


def nothing_written(folder: Path) -> bool:
    return not any(path for path in folder.rglob("*") if path.name not in ("images", "broken.jpg"))


BAD_INPUT = {
    "phi out of range": (("export", "--phi", "8"), "invalid-phi", ""),
    "phi that is no number": (("export", "--phi", "three"), "usage", "'three'"),
    "phi that is not a number": (("export", "--phi", "nan"), "invalid-phi", ""),
    "a latency without a unit": (("fit", "--gpu", "T4", "--max-latency", "10"), "unit-missing", ""),
    "an unknown GPU": (("fit", "--gpu", "T5", "--max-latency", "10ms"), "unknown-gpu", "'T5'"),
    "an unknown command": (("expart",), "usage", ""),
    "no target": (("fit", "--gpu", "T4"), "target-missing", ""),
    "a batch range that falls": (("build-engine", "--batch", "8,4,1"), "invalid-batch", ""),
    "nothing exported": (("build-engine",), "model-not-found", ""),
    "a missing image folder": (("calibrate", "--data", "nowhere"), "model-not-found", ""),
    "a missing model": (("build-engine", "--onnx", "no.onnx"), "model-not-found", "no.onnx"),
    "batches that are no numbers": (("bench", "x.engine", "--batch", "1,b"), "invalid-option-value", ""),
    "a record that is not there": (("compare", "a.json", "b.json"), "record-not-found", ""),
    "a missing engine": (("bench", "no.engine"), "engine-not-found", "no.engine"),
    "a folder as an engine": (("bench", "."), "engine-not-found", ""),
    "contradicting precisions": (("build-engine", "--fp16", "--int8"), "option-conflict", ""),
    "images without INT8": (("build-engine", "--data", "generated"), "option-not-applicable", ""),
    "images to evaluate on without INT8": (
        ("build-engine", "--eval", "x", "--max-drop", "1"),
        "option-not-applicable",
        "",
    ),
    "nothing exported to quantize": (("quantize", "--data", "generated"), "model-not-found", ""),
    "a missing model to quantize": (("quantize", "--onnx", "no.onnx"), "model-not-found", "no.onnx"),
    "two ways to name a model to quantize": (
        ("quantize", "--phi", "0", "--onnx", "m.onnx"),
        "option-conflict",
        "",
    ),
    "a missing model to look into": (
        ("sensitivity", "no.onnx", "--data", "generated"),
        "model-not-found",
        "no.onnx",
    ),
    "ranges to merge that are missing": (
        ("calibrate", "--merge", "a.json", "-o", "b.json"),
        "ranges-not-found",
        "a.json",
    ),
    "two ways to name a model": (("build-engine", "--phi", "0", "--onnx", "m.onnx"), "option-conflict", ""),
    "a missing checkpoint": (("export", "--phi", "0", "--weights", "no.pth"), "checkpoint-not-found", ""),
    "an unwritable place": (("export", "--phi", "0", "-o", "/proc/nowhere/x"), "output-unwritable", ""),
    "an export that is named as no model is": (
        ("export", "--phi", "0", "-o", "a/notes.txt"),
        "invalid-output-name",
        "",
    ),
    "a page that is named as no page is": (("report", "x", "-o", "x.pdf"), "invalid-output-name", ""),
    "FP16 on the CPU": (("build-engine", "--gpu", "cpu", "--fp16"), "precision-unsupported", ""),
    "a GPU no compiler here builds for": (
        ("build-engine", "--gpu", "H100"),
        "compiler-target-mismatch",
        "H100",
    ),
}


def test_a_model_without_its_option_gets_the_corrected_command(run):
    assert "fix: deploykit build-engine --onnx model.onnx\n" in run("build-engine", "model.onnx").err
    assert "--onnx" not in run("compare", "a", "b", "c").err


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_with_a_fix_and_writes_nothing(run, tmp_path, case):
    arguments, code, value = BAD_INPUT[case]
    shown = run(*arguments)
    assert shown.status == 2
    problem, fix = shown.err.splitlines()
    assert shown.code == code
    assert value in problem
    assert fix.startswith("  fix: ")
    assert shown.out == ""
    assert nothing_written(tmp_path)


def test_a_truncated_model_is_refused(run, random_b0, tmp_path):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(random_b0.path.read_bytes()[:-100_000])
    shown = run("build-engine", "--onnx", str(cut))
    assert shown.status == 2
    assert "not an ONNX model, or was cut short" in shown.err


def test_a_broken_image_is_named(run, random_b0, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "broken.jpg").write_text("no image")
    shown = run("calibrate", "--onnx", str(random_b0.path), "--data", str(folder))
    assert shown.status == 2
    assert "broken.jpg is not a readable image" in shown.err
    assert nothing_written(tmp_path)


def test_an_empty_image_folder_is_refused(run, random_b0, tmp_path):
    (tmp_path / "images").mkdir()
    shown = run("calibrate", "--onnx", str(random_b0.path), "--data", "images")
    assert (shown.status, shown.code == "images-missing") == (2, True)


def test_int8_of_trained_weights_asks_for_images(run, trained):
    shown = run("build-engine", "--int8", "--onnx", str(trained.path), "-o", "x.engine")
    assert shown.status == 2
    assert shown.code == "calibration-data-missing"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--batch", "1,8,64", "--profiles", "1;8"], "option-conflict"),
        (["--profiles", "1;x"], "invalid-batch"),
        (["--side", "380,224,300"], "invalid-side"),
        (["--side", "big"], "invalid-side"),
        (["--optimization-level", "9"], "invalid-optimization-level"),
        (["--workspace", "0"], "invalid-workspace"),
        (["--strip"], "option-not-applicable"),
        (["--compiler", "onnxruntime", "--gpu", "T4"], "compiler-target-mismatch"),
        (["--compiler", "tensorrt", "--gpu", "A100"], "compiler-target-mismatch"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_written(run, tmp_path, options, code):
    run("export", "--phi", "0", "--side", "64")
    refused = run("build-engine", *options)
    assert (refused.status, refused.out, refused.code) == (2, "", code)
    assert [path.name for path in (tmp_path / "engines" / "efficientnet-phi0").iterdir()] == ["model.onnx"]


def test_inspect_refuses_other_files(run, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"no engine")
    for name, code in {"photo.png": "manifest-not-found", "none.engine": "engine-not-found"}.items():
        refused = run("inspect", name)
        assert (refused.status, refused.out, refused.code) == (2, "", code)
