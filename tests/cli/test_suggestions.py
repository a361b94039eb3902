"""Corrections of mistyped command lines."""

from pathlib import Path

import pytest

CORRECTIONS = {
    ("build", "--int8"): "deploykit build-engine --int8",
    ("quantise", "--phi", "3"): "deploykit quantize --phi 3",
    ("exprot", "--phi", "3"): "deploykit export --phi 3",
    ("Export", "--phi", "3"): "deploykit export --phi 3",
    ("compile", "--gpu", "T4"): "deploykit build-engine --gpu T4",
    ("import", "b3.pth"): "deploykit import-weights b3.pth",
    ("benchmark", "x.engine"): "deploykit bench x.engine",
    ("fit", "--gpu", "T4", "--maxlatency", "10ms"): "deploykit fit --gpu T4 --max-latency 10ms",
    ("fit", "--gpu", "T4", "--maxlatency=10ms"): "deploykit fit --gpu T4 --max-latency=10ms",
    ("build-engine", "--in8"): "deploykit build-engine --int8",
    ("scale", "--rule", "publishd"): "deploykit scale --rule published",
    ("scale", "--rule=publishd"): "deploykit scale --rule published",
    ("export", "3"): "deploykit export --phi 3",
    ("export", "b3"): "deploykit export --member b3",
    ("export", "--phi", "b3"): "deploykit export --member b3",
    ("build-engine", "b3.onnx"): "deploykit build-engine --onnx b3.onnx",
    ("fit", "T4", "--max-latency", "10ms"): "deploykit fit --gpu T4 --max-latency 10ms",
    ("export", "--family", "efficientnet-b3"): "deploykit export --family efficientnet --member b3",
    ("export", "--family=efficientnet_b3"): "deploykit export --family efficientnet --member b3",
    ("export", "efficientnet-b3"): "deploykit export --family efficientnet --member b3",
    ("scale", "--family", "resnt18"): "deploykit scale --family resnet18",
    ("fit", "--gpu", "T4", "--max-latency", "9ms", "--family", "resnet-18"): (
        "deploykit fit --gpu T4 --max-latency 9ms --family resnet18"
    ),
}


@pytest.mark.parametrize("typed", CORRECTIONS)
def test_the_fix_is_the_corrected_command(run, typed):
    shown = run(*typed)
    assert shown.status == 2
    assert shown.err.splitlines()[-1] == f"  fix: {CORRECTIONS[typed]}"


@pytest.mark.parametrize("command", ["bench", "check", "inspect"])
def test_a_model_in_place_of_an_engine_is_to_be_built_first(run, command):
    Path("model.onnx").write_bytes(b"a model")
    fix = run(command, "model.onnx").err.splitlines()[-1]
    assert fix.startswith("  fix: deploykit build-engine --onnx model.onnx --gpu ")


@pytest.mark.parametrize("typed", [("xyzzy",), ("fit", "--xyzzy"), ("compare", "a", "b", "c")])
def test_where_nothing_is_close_the_help_is_named(run, typed):
    shown = run(*typed)
    assert shown.code == "usage"
    assert shown.err.splitlines()[-1].endswith("--help")


@pytest.mark.parametrize(
    ("old", "new", "arguments"),
    [
        ("--int8-spare", "--int8-float-budget", ("quantize", "--int8-spare", "500")),
        ("--int8-spare", "--int8-float-budget", ("quantize", "--int8-spare=500")),
        ("--drain", "--shutdown-timeout", ("serve", "--drain", "soon", "x.engine")),
        ("--ready", "--startup-timeout", ("serve", "--ready", "soon", "x.engine")),
    ],
)
def test_an_old_option_works_with_a_note(run, old, new, arguments):
    shown = run(*arguments)
    assert shown.code in ("invalid-float-budget", "invalid-duration")  # its value was read
    assert shown.err.startswith(f"note: {old} is now {new}")
