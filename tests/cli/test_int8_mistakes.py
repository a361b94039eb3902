"""How calibrate, quantize, sensitivity and build-engine --int8 refuse wrong input."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(int8_folder: Path) -> Path:
    return int8_folder


def contents(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


MODEL = ("--onnx", "model.onnx")
CALIBRATE = ("calibrate", *MODEL, "-o", "r.json")
MERGE = ("calibrate", "-o", "r.json", "--merge")
QUANTIZE = ("quantize", *MODEL, "-o", "q.onnx")
SENSITIVITY = ("sensitivity", "model.onnx", "--data", "images")
BUILD = ("build-engine", "--int8", "--gpu", "cpu", *MODEL, "-o", "e.onnx")

BAD_INPUT = {
    "calibrate: no images": (CALIBRATE, "data-missing", ""),
    "calibrate: no model": (
        ("calibrate", "--onnx", "none.onnx", "--data", "flat"),
        "model-not-found",
        "none.onnx",
    ),
    "calibrate: a model cut short": (
        ("calibrate", "--onnx", "cut.onnx", "--data", "flat"),
        "model-damaged",
        "",
    ),
    "calibrate: NaN weights": (
        ("calibrate", "--onnx", "nan.onnx", "--data", "flat"),
        "model-values-invalid",
        "nan.onnx",
    ),
    "calibrate: a fixed batch": (
        ("calibrate", "--onnx", "fixed.onnx", "--data", "flat"),
        "model-input-unsupported",
        "",
    ),
    "calibrate: a missing folder": ((*CALIBRATE, "--data", "nowhere"), "file-not-found", ""),
    "calibrate: an empty folder": ((*CALIBRATE, "--data", "empty"), "images-missing", ""),
    "calibrate: a broken image": ((*CALIBRATE, "--data", "broken"), "image-unreadable", "2.png"),
    "calibrate: no images at all": (
        (*CALIBRATE, "--data", "flat", "--images", "0"),
        "invalid-image-count",
        "",
    ),
    "calibrate: fewer than none": (
        (*CALIBRATE, "--data", "flat", "--images", "-3"),
        "invalid-image-count",
        "",
    ),
    "calibrate: another method": ((*CALIBRATE, "--data", "flat", "--method", "minmax"), "usage", "'minmax'"),
    "calibrate: max with a percentile": (
        (*CALIBRATE, "--data", "flat", "--method", "max", "--percentile", "99"),
        "option-not-applicable",
        "",
    ),
    "calibrate: a percentile alone": (
        (*CALIBRATE, "--data", "flat", "--percentile", "99"),
        "option-not-applicable",
        "",
    ),
    "calibrate: half a percentile": (
        (*CALIBRATE, "--data", "flat", "--method", "percentile", "--percentile", "50"),
        "invalid-percentile",
        "",
    ),
    "calibrate: a percentile of NaN": (
        (*CALIBRATE, "--data", "flat", "--method", "peak-percentile", "--percentile", "nan"),
        "invalid-percentile",
        "",
    ),
    "calibrate: a file as images": ((*CALIBRATE, "--data", "sound.json"), "data-unsupported", ""),
    "calibrate: over its own model": (
        ("calibrate", *MODEL, "--data", "flat", "-o", "model.onnx"),
        "output-is-input",
        "",
    ),
    "calibrate: a folder as ranges": (
        ("calibrate", *MODEL, "--data", "flat", "-o", "images"),
        "output-not-a-file",
        "",
    ),
    "calibrate: an unwritable place": (
        ("calibrate", *MODEL, "--data", "flat", "-o", "/proc/x/r.json"),
        "output-unwritable",
        "",
    ),
    "calibrate: a name too many": ((*CALIBRATE, "--data", "flat", "sound.json"), "unexpected-argument", ""),
    "calibrate: a negative seed": ((*CALIBRATE, "--data", "flat", "--seed", "-1"), "invalid-seed", ""),
    "calibrate: a manifest of another name": (
        (*CALIBRATE, "--data", "flat", "--manifest", "drawn.json"),
        "invalid-output-name",
        "",
    ),
    "merge: no files": (MERGE, "option-incomplete", ""),
    "merge: no place to go": (("calibrate", "--merge", "sound.json"), "output-missing", ""),
    "merge: a missing file": ((*MERGE, "sound.json", "none.json"), "ranges-not-found", ""),
    "merge: a damaged file": ((*MERGE, "sound.json", "cut.json"), "ranges-damaged", ""),
    "merge: no ranges": ((*MERGE, "sound.json", "model.onnx"), "ranges-damaged", ""),
    "merge: another model's": ((*MERGE, "sound.json", "other.json"), "ranges-wrong-model", ""),
    "merge: other preprocessing": ((*MERGE, "sound.json", "std.json"), "ranges-preprocessing-mismatch", ""),
    "merge: images too": ((*MERGE, "sound.json", "--data", "flat"), "option-conflict", ""),
    "merge: a model too": ((*MERGE, "sound.json", *MODEL), "option-conflict", ""),
    "merge: preprocessing too": ((*MERGE, "sound.json", "--mean", "0.5,0.5,0.5"), "option-conflict", ""),
    "merge: bad images too": ((*MERGE, "sound.json", "--skip-bad"), "option-conflict", ""),
    "merge: max with a percentile": (
        (*MERGE, "sound.json", "--method", "max", "--percentile", "99"),
        "option-not-applicable",
        "",
    ),
    "quantize: no images": (QUANTIZE, "calibration-data-missing", ""),
    "quantize: NaN weights": (
        ("quantize", "--onnx", "nan.onnx", "--data", "flat"),
        "model-values-invalid",
        "nan.onnx",
    ),
    "quantize: another model's ranges": ((*QUANTIZE, "--ranges", "other.json"), "ranges-wrong-model", ""),
    "quantize: damaged ranges": ((*QUANTIZE, "--ranges", "cut.json"), "ranges-damaged", ""),
    "quantize: missing ranges": ((*QUANTIZE, "--ranges", "none.json"), "ranges-not-found", ""),
    "quantize: ranges and images": (
        (*QUANTIZE, "--ranges", "sound.json", "--data", "flat"),
        "option-conflict",
        "",
    ),
    "quantize: a broken image": ((*QUANTIZE, "--data", "broken"), "image-unreadable", "2.png"),
    "quantize: a bound without images": (
        (*QUANTIZE, "--ranges", "sound.json", "--max-drop", "1"),
        "option-incomplete",
        "",
    ),
    "quantize: a negative bound": (
        (*QUANTIZE, "--ranges", "sound.json", "--eval", "images", "--max-drop", "-1"),
        "invalid-max-drop",
        "",
    ),
    "quantize: a bound of NaN": (
        (*QUANTIZE, "--ranges", "sound.json", "--eval", "images", "--max-drop", "nan"),
        "invalid-max-drop",
        "",
    ),
    "quantize: images without labels": (
        (*QUANTIZE, "--ranges", "sound.json", "--eval", "flat"),
        "images-unlabelled",
        "",
    ),
    "quantize: labels beyond the outputs": (
        (*QUANTIZE, "--ranges", "sound.json", "--eval", "wrong.npz"),
        "class-count-mismatch",
        "",
    ),
    "quantize: other classes": (
        (*QUANTIZE, "--ranges", "sound.json", "--eval", "five"),
        "class-count-mismatch",
        "",
    ),
    "quantize: a bound that can't be met": (
        (*QUANTIZE, "--ranges", "hopeless.json", "--eval", "images", "--max-drop", "1"),
        "gate-failed",
        "",
    ),
    "quantize: too large a float budget": (
        (*QUANTIZE, "--ranges", "sound.json", "--int8-float-budget", "101"),
        "invalid-float-budget",
        "",
    ),
    "quantize: another policy": (
        (*QUANTIZE, "--ranges", "sound.json", "--int8-policy", "all"),
        "usage",
        "'all'",
    ),
    "quantize: a pattern of nothing": (
        (*QUANTIZE, "--ranges", "sound.json", "--int8-exclude", "conv_steam"),
        "unknown-layer",
        "",
    ),
    "quantize: a pattern of everything": (
        (*QUANTIZE, "--ranges", "sound.json", "--int8-exclude", "*"),
        "nothing-to-quantize",
        "",
    ),
    "quantize: over its own model": (
        ("quantize", *MODEL, "--ranges", "sound.json", "-o", "model.onnx"),
        "output-is-input",
        "",
    ),
    "quantize: preprocessing that the ranges don't have": (
        (*QUANTIZE, "--ranges", "sound.json", "--mean", "0.5,0.5,0.5"),
        "ranges-preprocessing-mismatch",
        "",
    ),
    "sensitivity: no model": (
        ("sensitivity", "none.onnx", "--data", "images"),
        "model-not-found",
        "none.onnx",
    ),
    "sensitivity: no images": (("sensitivity", "model.onnx"), "usage", "'--data'"),
    "sensitivity: NaN weights": (
        ("sensitivity", "nan.onnx", "--data", "images"),
        "model-values-invalid",
        "nan.onnx",
    ),
    "sensitivity: a missing folder": (
        ("sensitivity", "model.onnx", "--data", "nowhere"),
        "file-not-found",
        "",
    ),
    "sensitivity: no images at all": ((*SENSITIVITY, "--images", "0"), "invalid-image-count", ""),
    "sensitivity: another model's ranges": (
        (*SENSITIVITY, "--ranges", "other.json"),
        "ranges-wrong-model",
        "",
    ),
    "sensitivity: labels beyond the outputs": (
        ("sensitivity", "model.onnx", "--data", "wrong.npz", "--ranges", "sound.json"),
        "class-count-mismatch",
        "",
    ),
    "sensitivity: a broken image": (
        ("sensitivity", "model.onnx", "--data", "broken", "--ranges", "sound.json"),
        "image-unreadable",
        "2.png",
    ),
    "build-engine: no images": (BUILD, "calibration-data-missing", ""),
    "build-engine: NaN weights": (
        ("build-engine", "--int8", "--gpu", "cpu", "--onnx", "nan.onnx", "--data", "flat"),
        "model-values-invalid",
        "nan.onnx",
    ),
    "build-engine: another model's ranges": ((*BUILD, "--ranges", "other.json"), "ranges-wrong-model", ""),
    "build-engine: damaged ranges": ((*BUILD, "--ranges", "cut.json"), "ranges-damaged", ""),
    "build-engine: a bound without images": (
        (*BUILD, "--ranges", "sound.json", "--max-drop", "1"),
        "option-incomplete",
        "",
    ),
    "build-engine: a bound that can't be met": (
        (*BUILD, "--ranges", "hopeless.json", "--eval", "images"),
        "gate-failed",
        "",
    ),
    "build-engine: INT8's options without INT8": (
        ("build-engine", "--gpu", "cpu", *MODEL, "--ranges", "sound.json"),
        "option-not-applicable",
        "",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_with_a_fix_and_writes_nothing(run, folder, case):
    before = contents(folder)
    arguments, code, value = BAD_INPUT[case]
    shown = run(*arguments)
    assert (shown.status, shown.out) == (2, "")
    *notes, problem, fix = shown.err.splitlines()
    assert all(note.startswith("note: ") for note in notes)
    assert shown.code == code
    assert value in problem
    assert fix.startswith("  fix: ")
    assert contents(folder) == before


@pytest.mark.parametrize("command", ["calibrate", "quantize", "sensitivity"])
def test_an_int8_model_is_refused(run, folder, command):
    assert run(*QUANTIZE, "--ranges", "sound.json").status == 0
    before = contents(folder)
    named = ["q.onnx"] if command == "sensitivity" else ["--onnx", "q.onnx"]
    shown = run(command, *named, "--data", "flat")
    assert shown.status == 2
    assert shown.code == "model-not-fp32"
    assert contents(folder) == before
