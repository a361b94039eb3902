"""The Q/DQ model that users look at before any engine is built."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from folders import files_in
from refusals import refuses

from deploykit.engine.quantize_model import quantize_model
from deploykit.networks.model_info import read_model_info
from deploykit.onnx_tools.model_io import read_model, to_bytes
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.quantize.plan import Int8Plan
from deploykit.stats.accuracy_metrics import sqnr_db
from deploykit.util.atomic_files import file_sha256
from deploykit.util.errors import DeployError


@pytest.fixture
def model(random_b0, workplace) -> Path:
    """B0 with random weights."""
    return Path(shutil.copy(random_b0.path, workplace / "model.onnx"))


@pytest.fixture
def quantized(model) -> tuple[Path, Int8Plan]:
    return quantize_model(onnx=model)


def test_a_quantized_model_is_written_beside_its_source_with_metadata(model, quantized):
    path, plan = quantized
    assert path == model.with_name("model.int8.onnx")
    assert files_in(model.parent) == {"model.onnx", "model.int8.onnx"}
    info = read_model_info(read_model(path))
    assert (info.precision, info.onnx_sha256, info.ranges_sha256) == (
        "int8",
        file_sha256(model),
        plan.ranges.sha256,
    )
    assert info.preprocessing == read_model_info(read_model(model)).preprocessing


def test_a_quantized_model_holds_the_plan_in_fp32(model, quantized):
    path, plan = quantized
    written, planned = read_model(path), plan.apply(read_model(model))
    assert to_bytes(written.graph) == to_bytes(planned.graph)
    assert len(plan.placement.products) == 33
    onnx.checker.check_model(written, full_check=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    logits, reference = (
        cpu_session(each, fuse_int8=False).run(None, {"input": x})[0] for each in (path, model)
    )
    assert sqnr_db(logits, reference) > 10


def test_a_quantized_model_is_written_to_the_given_output(model, workplace):
    output = workplace / "new" / "q.onnx"
    assert quantize_model(onnx=model, output=output)[0] == output
    assert output.is_file()


@pytest.mark.parametrize("output", ["model.onnx", "folder"])
def test_a_quantized_model_replaces_neither_its_source_nor_a_folder(model, workplace, output):
    (workplace / "folder").mkdir()
    before = file_sha256(model)
    with pytest.raises(DeployError):
        quantize_model(onnx=model, output=workplace / output)
    assert file_sha256(model) == before
    assert files_in(workplace) == {"model.onnx"}


def test_a_quantized_model_is_not_quantized_again(quantized):
    with refuses("model-not-fp32"):
        quantize_model(onnx=quantized[0])
