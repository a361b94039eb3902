import os
from pathlib import Path

import pytest
from refusals import refuses

from deploykit.networks.artifact_paths import default_ranges_path, export_path, find_model, model_name


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def place(name: str, *, age_s: float = 0) -> Path:
    path = Path("engines") / name / "model.onnx"
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (1e9 - age_s, 1e9 - age_s))
    return path


@pytest.mark.parametrize(
    ("phi", "rule", "name"),
    [
        (3, "published", "efficientnet-phi3"),
        (2.5, "published", "efficientnet-phi2.5"),
        (3, "formula", "efficientnet-formula-phi3"),
        (-1, "formula", "efficientnet-formula-phi-1"),
        (3, None, "efficientnet-phi3"),
        (None, None, "efficientnet"),
    ],
)
def test_a_model_name_contains_phi_and_rule(phi, rule, name):
    assert model_name("efficientnet", phi, rule) == name


@pytest.mark.parametrize(
    ("output", "path"),
    [
        (None, "engines/b0/model.onnx"),
        ("out", "out/model.onnx"),
        ("out/", "out/model.onnx"),
        ("out/mine.onnx", "out/mine.onnx"),
        ("v1.2", "v1.2/model.onnx"),
    ],
)
def test_an_export_path_is_in_a_folder_or_is_the_named_file(output, path):
    assert export_path("b0", None if output is None else Path(output)) == Path(path)


@pytest.mark.parametrize(
    ("model", "ranges"),
    [
        ("engines/b0/model.onnx", "calibration/b0.ranges.json"),
        ("elsewhere/mine.onnx", "calibration/mine.ranges.json"),
    ],
)
def test_ranges_are_named_after_the_model_or_its_file(model, ranges):
    assert default_ranges_path(Path(model), "b0") == Path(ranges)


def test_without_a_model_the_fix_is_an_export():
    with refuses("model-not-found") as caught:
        find_model()
    assert caught.value.fix == "deploykit export --phi 3"


def test_without_a_model_of_that_phi_the_fix_exports_it():
    place("efficientnet-phi3")
    with refuses("model-not-found") as caught:
        find_model(phi=2.5)
    assert caught.value.fix == "deploykit export --phi 2.5"


def test_a_single_model_is_used_without_a_note():
    path = place("efficientnet-phi3")
    assert find_model() == (path, None)


def test_the_newest_of_several_models_is_used_with_a_note():
    place("efficientnet-phi0", age_s=60)
    newest = place("efficientnet-phi1", age_s=2)
    place("efficientnet-phi3", age_s=30)
    path, sentence = find_model()
    assert path == newest
    assert "engines/efficientnet-phi1/model.onnx, the newest of 3" in sentence


def test_models_of_the_same_time_are_ambiguous():
    place("efficientnet-phi0", age_s=0.5)
    place("efficientnet-phi1")
    place("efficientnet-phi2", age_s=60)
    with refuses("model-ambiguous") as caught:
        find_model()
    assert "efficientnet-phi0, efficientnet-phi1" in caught.value.problem
    assert caught.value.fix == "choose one, for example --onnx engines/efficientnet-phi1/model.onnx"


@pytest.mark.parametrize("phi", [2, 2.5, 12, -2])
def test_a_phi_selects_its_model_among_others(phi):
    paths = {each: place(model_name("efficientnet", each, "formula")) for each in (2, 2.5, 5, 12, -2)}
    assert find_model(phi=phi) == (paths[phi], None)


def test_a_phi_exported_under_both_rules_selects_the_newer():
    place("efficientnet-phi3", age_s=60)
    formula = place("efficientnet-formula-phi3")
    path, sentence = find_model(phi=3)
    assert path == formula
    assert "newest of 2" in sentence


def test_a_given_file_is_used_as_it_is():
    place("efficientnet-phi3")
    assert find_model(onnx=Path("mine.onnx")) == (Path("mine.onnx"), None)


def test_other_files_beside_models_are_ignored():
    place("efficientnet-phi3").with_name("model.fp16.sm75.engine").touch()
    Path("engines/README.md").touch()
    Path("engines/results").mkdir()
    assert find_model() == (Path("engines/efficientnet-phi3/model.onnx"), None)
