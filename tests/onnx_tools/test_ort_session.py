"""ONNX Runtime's sessions; on a GPU they are tested by test_gpu.py."""

import numpy as np
import pytest
from refusals import refuses

from deploykit.engine.audit.graph_nodes import name_nodes
from deploykit.engine.build import build_engine
from deploykit.engine.onnxruntime_compiler import audit_kernels
from deploykit.onnx_tools.fp16 import to_fp16
from deploykit.onnx_tools.model_io import read_model
from deploykit.onnx_tools.ort_session import cpu_session, cuda_session, has_cuda
from deploykit.runtime import onnxruntime_runner as runners
from deploykit.runtime.arrays import DeviceArray

only_for_cpus = pytest.mark.skipif(has_cuda(), reason="this ONNX Runtime has its CUDA provider")


@only_for_cpus
def test_an_onnx_runtime_for_cpus_does_not_pass_for_one_for_gpus(random_b0):
    with refuses("onnxruntime-cuda-missing") as caught:
        cuda_session(random_b0.path)
    assert "onnxruntime-gpu[cuda,cudnn]" in caught.value.fix


def test_fp16_that_is_computed_in_fp32_does_not_pass_for_fp16(random_b0):
    """As ONNX Runtime does, without a word, where its CUDA provider does not start."""
    model = to_fp16(read_model(random_b0.path))
    name_nodes(model)
    found = audit_kernels(model)
    assert found.product_count("fp16") == 0
    assert found.product_count("fp32") > 80
    with refuses("engine-precision-mismatch"):
        found.require_precision("fp16")


def test_memory_that_is_given_is_what_a_session_reads_and_writes(random_b0, tmp_path, monkeypatch):
    """The memory is the host's, and the session one for the CPU: binding is the same."""
    monkeypatch.setattr(runners, "cuda_session", cpu_session)
    monkeypatch.setattr(runners, "_DEVICE_TYPE", "cpu")
    built = build_engine(onnx=random_b0.path, gpu="cpu", output=tmp_path / "e.onnx")
    runner = runners.OnnxRuntimeCudaRunner(built.path, built.manifest)
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    answer = np.zeros((2, 1000), np.float32)
    given, place = (
        DeviceArray(pointer=each.ctypes.data, shape=each.shape, dtype="float32", stream=None)
        for each in (images, answer)
    )
    runner.run_on_device(given, (place,), 0, None)
    np.testing.assert_array_equal(answer, runner.run(images, 0))
    runner.close()
