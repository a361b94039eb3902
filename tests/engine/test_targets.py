import pytest
from refusals import refuses

from deploykit.engine import targets
from deploykit.engine.targets import Target, int8_caveat, resolve_precision, resolve_target
from deploykit.gpu_catalog.gpus import Gpu, known_gpus
from deploykit.util.local_gpu import LocalGpu, local_gpu


@pytest.mark.parametrize(
    ("asked", "name", "sm"),
    # Compute capabilities: developer.nvidia.com/cuda-gpus.
    [
        ("T4", "T4", 75),
        ("nvidia-tesla-t4", "T4", 75),
        ("RTX 2080 Ti", "RTX 2080 Ti", 75),
        ("a100", "A100 SXM4 40GB", 80),
        ("A10", "A10", 86),
        ("L4", "L4", 89),
        ("geforce rtx 4090", "RTX 4090", 89),
    ],
)
def test_a_gpus_name_gives_its_compute_capability(asked, name, sm):
    target = resolve_target(asked)
    assert (target.name, target.sm, target.compiler) == (name, sm, "tensorrt-rtx")
    assert target.label == f"sm{sm}"
    assert target.title == f"{name} (SM{sm})"


@pytest.mark.parametrize("asked", ["cpu", "CPU"])
def test_the_cpu_is_a_target_of_onnx_runtime(asked):
    target = resolve_target(asked)
    assert target == Target(name="CPU", compiler="onnxruntime")
    assert (target.label, target.title) == ("cpu", "the CPU")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(targets, "local_gpu", lambda: None)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_target_is_portable_with_a_note():
    target = resolve_target(None)
    assert (target.name, target.sm, target.label) == ("portable", None, "portable")
    assert "a T4 (SM75) needs --gpu T4" in target.note


@pytest.mark.usefixtures("no_gpu")
def test_a_missing_local_gpu_is_refused():
    with refuses("gpu-not-found") as caught:
        resolve_target("local")
    assert "--gpu T4" in caught.value.fix


@pytest.mark.parametrize("asked", [None, "local", "LOCAL"])
def test_the_local_gpu_has_the_name_that_its_driver_reports(monkeypatch, asked):
    monkeypatch.setattr(targets, "local_gpu", lambda: LocalGpu(name="NVIDIA L4", sm=89))
    target = resolve_target(asked)
    assert (target.name, target.sm) == ("NVIDIA L4", 89)


def test_a_local_gpu_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr(targets, "local_gpu", lambda: LocalGpu(name="NVIDIA H200", sm=90))
    with refuses("compiler-target-mismatch"):
        resolve_target(None)


def test_the_gpu_of_this_machine_is_detected():
    gpu = local_gpu()
    assert gpu is None or (gpu.name and gpu.sm >= 50)


@pytest.mark.parametrize(
    ("name", "sm"), [("P4", 61), ("V100", 70), ("V100 PCIe", 70), ("H100", 90), ("H200", 90)]
)
def test_a_gpu_that_tensorrt_rtx_does_not_support_is_refused_with_alternatives(name, sm):
    with refuses("compiler-target-mismatch") as caught:
        resolve_target(name)
    assert "SM75, SM80, SM86, SM89" in caught.value.problem
    assert "NVIDIA's tensorrt" in caught.value.fix
    assert "--gpu cpu" in caught.value.fix


def described(**facts) -> Gpu:
    return Gpu(name="Mine", architecture="unknown", source="its datasheet", **facts)


@pytest.mark.parametrize(("capability", "sm"), [("7.5", 75), ("8.9", 89), ("12.0", 120)])
def test_a_described_gpu_is_compiled_for_by_its_compute_capability(capability, sm):
    target = resolve_target(described(compute_capability=capability))
    assert (target.name, target.sm, target.compiler) == ("Mine", sm, "tensorrt-rtx")


def test_a_described_gpu_that_no_compiler_supports_is_refused():
    with refuses("compiler-target-mismatch"):
        resolve_target(described(compute_capability="9.0"))
    with refuses("gpu-facts-missing") as caught:
        resolve_target(described())
    assert "compute_capability" in caught.value.fix
    with refuses("compiler-target-mismatch"):
        resolve_target(described(compute_capability="8.9"), "tensorrt")


def test_every_known_gpu_has_a_compute_capability():
    assert all(gpu.sm is not None for gpu in known_gpus())


def test_an_unknown_name_is_refused():
    with refuses("unknown-gpu"):
        resolve_target("T44")


def test_the_listed_compute_capabilities_are_those_of_tensorrt_rtx():
    import tensorrt_rtx as trt

    members = {name for name in vars(trt.ComputeCapability) if name.startswith("SM")}
    assert members == {f"SM{sm}" for sm in targets.AHEAD_OF_TIME_SMS}


@pytest.mark.parametrize("name", ["T4", "A100", "L4", "A10"])
def test_the_note_on_data_centre_gpus_names_the_documented_compiler(name):
    note = resolve_target(name).note
    assert "NVIDIA documents TensorRT-RTX for RTX GPUs" in note
    assert resolve_target(name).name in note
    assert "tensorrt for data-centre GPUs" in note


@pytest.mark.parametrize("name", ["RTX 2080 Ti", "RTX 3090", "RTX 4090"])
def test_rtx_cards_get_nvidias_compiler_for_them(name):
    assert "NVIDIA's compiler for RTX GPUs" in resolve_target(name).note


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ("T4", "no INT8 convolutions for SM75"),
        ("RTX 2080 Ti", "INT8 matrix products"),
        ("RTX 4090", "not in TensorRT-RTX's support matrix"),
    ],
)
def test_int8_has_a_caveat_for_each_gpu_generation(gpu, said):
    note = int8_caveat(resolve_target(gpu))
    assert said in note
    assert "Compare with --fp16" in note


def test_int8_on_the_cpu_needs_no_note():
    assert int8_caveat(resolve_target("cpu")) is None


@pytest.mark.parametrize(
    ("gpu", "asked", "built"),
    [
        ("T4", None, "fp16"),
        ("T4", "fp32", "fp32"),
        ("T4", "int8", "int8"),
        ("cpu", None, "fp32"),
        ("cpu", "fp32", "fp32"),
        ("cpu", "int8", "int8"),
    ],
)
def test_the_precision_defaults_to_that_of_the_target(gpu, asked, built):
    assert resolve_precision(resolve_target(gpu), asked) == built


def test_fp16_on_the_cpu_is_refused():
    with refuses("precision-unsupported") as caught:
        resolve_precision(resolve_target("cpu"), "fp16")
    assert "FP32 or INT8" in caught.value.fix


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with refuses("unknown-precision") as caught:
        resolve_precision(resolve_target("T4"), "int4")
    assert "fp32, fp16, int8" in caught.value.fix


def test_the_portable_engine_can_be_requested():
    target = resolve_target("portable")
    assert (target.name, target.sm, target.label) == ("portable", None, "portable")
    assert "TensorRT-RTX" in target.note
