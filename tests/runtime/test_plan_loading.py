"""TensorRT-RTX cannot load real plans on a machine without a driver, and says why."""

from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refuses

from deploykit.engine.build import build_engine
from deploykit.engine.manifest import read_engine_manifest
from deploykit.runtime.tensorrt.plan import deserialize_plan
from deploykit.util.local_gpu import local_gpu

pytestmark = pytest.mark.skipif(local_gpu() is not None, reason="the GPU of this machine may load it")


@pytest.fixture(scope="module")
def engine(random_b0, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("plan") / "model.engine"
    return build_engine(onnx=random_b0.path, gpu="L4", output=output).path


def test_without_a_driver_the_error_names_the_driver(engine):
    with refuses("engine-load-failed") as caught:
        deserialize_plan(engine, read_engine_manifest(engine))
    assert "driver" in caught.value.problem
    assert "nvidia-smi" in caught.value.fix


def test_a_missing_compiler_is_named(engine):
    manifest = read_engine_manifest(engine)
    with refuses("dependency-missing") as caught:
        deserialize_plan(engine, replace(manifest, target=replace(manifest.target, compiler="tensorrt")))
    assert "package index" in caught.value.fix
