"""What build_engine refuses before it does any work."""

import pytest
from refusals import refuses

from deploykit.engine.build import build_engine
from deploykit.quantize.int8_options import Int8Options


@pytest.mark.parametrize("named", ["engine", "manifest"])
def test_an_engine_does_not_replace_the_ranges_it_is_built_from(random_b0, tmp_path, named):
    ranges = tmp_path / "x.json"
    ranges.write_text("{}")
    output = ranges if named == "engine" else tmp_path / "x"
    with refuses("output-is-input"):
        build_engine(
            onnx=random_b0.path,
            precision="int8",
            gpu="cpu",
            int8=Int8Options(ranges=ranges),
            output=output,
        )
    assert ranges.read_text() == "{}"


def test_a_foreign_file_at_the_manifests_path_is_not_replaced(random_b0, tmp_path):
    (tmp_path / "notes.json").write_text("mine")
    with refuses("manifest-would-be-replaced"):
        build_engine(onnx=random_b0.path, gpu="cpu", output=tmp_path / "notes")
    assert (tmp_path / "notes.json").read_text() == "mine"


def test_a_missing_compiler_is_reported_before_calibration(random_b0, tmp_path, monkeypatch):
    monkeypatch.setattr("deploykit.engine.compilers.importlib.util.find_spec", lambda name: None)
    with refuses("dependency-missing"):
        build_engine(
            onnx=random_b0.path, precision="int8", gpu="T4", output=tmp_path / "e", progress=pytest.fail
        )
