"""What users install."""

import importlib.metadata
import importlib.resources

import pytest


def test_the_wheel_holds_the_package_alone():
    distribution = importlib.metadata.distribution("deploykit")
    from_a_wheel = distribution.read_text("WHEEL") is not None
    if not from_a_wheel or "editable" in (distribution.read_text("direct_url.json") or ""):
        pytest.skip("runs from the source tree: make check tests the built wheel")
    files = [str(file) for file in distribution.files or []]
    packaged = [
        file for file in files if not file.split("/")[0].endswith(".dist-info") and "bin/" not in file
    ]
    assert all(file.startswith("deploykit/") for file in packaged)
    assert {
        "deploykit/py.typed",
        "deploykit/gpu_catalog/gpus.toml",
        "deploykit/planning/cost_model/cost_model.json",
    } <= set(packaged)


def test_the_data_files_are_found_where_it_is_installed():
    package = importlib.resources.files("deploykit")
    assert package.joinpath("gpu_catalog", "gpus.toml").is_file()
    assert package.joinpath("planning", "cost_model", "cost_model.json").is_file()
