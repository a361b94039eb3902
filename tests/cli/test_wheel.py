"""What users install."""

import importlib.metadata
import importlib.resources
from pathlib import Path

import pytest

import deploykit
from deploykit.util.install_hint import DISTRIBUTION

_ROOT = Path(deploykit.__file__).parents[1]


@pytest.mark.skipif(
    (_ROOT / "pyproject.toml").is_file(), reason="runs from a checkout: make check tests the wheel"
)
def test_the_wheel_contains_the_package_only():
    files = [str(file) for file in importlib.metadata.distribution(DISTRIBUTION).files or []]
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
