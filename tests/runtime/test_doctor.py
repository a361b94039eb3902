"""What doctor reports about a machine."""

import importlib.metadata

import pytest

from deploykit.runtime.doctor import diagnose
from deploykit.util.install_hint import install_hint
from deploykit.util.local_gpu import local_gpu


def test_the_reported_versions_are_the_installed_ones():
    versions = {component.name: component.version for component in diagnose().components}
    assert versions["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert versions["tensorrt-rtx-cu13"] == importlib.metadata.version("tensorrt-rtx-cu13")


def test_a_library_that_fails_to_import_is_missing_and_has_an_install_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)  # import raises ImportError
    found = diagnose()
    (component,) = (each for each in found.components if each.name == "safetensors")
    assert component.version is None
    assert any("safetensors is missing" in line and install_hint("cpu") in line for line in found.advice)


@pytest.mark.skipif(local_gpu() is not None, reason="this machine has a GPU")
def test_without_a_gpu_only_cpu_engines_run():
    found = diagnose()
    assert found.runs == ("CPU engines",)
    assert any(each.startswith("SM75, 80, 86, 89, 120, 121 ") for each in found.builds_for)
