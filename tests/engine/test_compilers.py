"""Which compiler builds for which GPU, and what may be asked of it."""

import pytest
from refusals import refuses

from deploykit.engine import targets
from deploykit.engine.compilers import COMPILERS, BuildOptions
from deploykit.engine.targets import Target, resolve_int8_policy, resolve_precision, resolve_target
from deploykit.util.errors import DeployError
from deploykit.util.local_gpu import LocalGpu

T4, H200, RTX_4090 = (
    LocalGpu(name=name, sm=sm)
    for name, sm in (("Tesla T4", 75), ("NVIDIA H200", 90), ("NVIDIA GeForce RTX 4090", 89))
)


@pytest.fixture
def here(monkeypatch):
    """Pretends that a GPU is here, and TensorRT installed or not."""

    def pretend(gpu: LocalGpu | None, *, tensorrt: bool = True) -> None:
        monkeypatch.setattr(targets, "local_gpu", lambda: gpu)
        monkeypatch.setattr(targets, "is_installed", lambda compiler: tensorrt)

    return pretend


@pytest.mark.parametrize(
    ("gpu", "tensorrt", "expected"),
    [
        (T4, True, "tensorrt"),
        (T4, False, "tensorrt-rtx"),
        (H200, True, "tensorrt"),
        (RTX_4090, True, "tensorrt-rtx"),
        (RTX_4090, False, "tensorrt-rtx"),
    ],
)
def test_auto_uses_the_documented_compiler_if_installed_and_says_why(here, gpu, tensorrt, expected):
    here(gpu, tensorrt=tensorrt)
    for asked in (None, "local"):
        target = resolve_target(asked)
        assert (target.compiler, target.name, target.sm) == (expected, gpu.name, gpu.sm)
        assert gpu.name in target.note
        assert COMPILERS[expected].title in target.note


def test_a_gpu_name_matches_the_local_gpu(here):
    here(T4)
    assert resolve_target("T4").compiler == "tensorrt"
    assert resolve_target("A100").compiler == "tensorrt-rtx"
    here(LocalGpu(name="NVIDIA A100-SXM4-40GB", sm=80))
    assert resolve_target("A100").compiler == resolve_target("A100 SXM4 40GB").compiler == "tensorrt"
    assert resolve_target("A30").compiler == "tensorrt-rtx"


@pytest.mark.parametrize(
    ("compiler", "expected"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt-rtx")]
)
def test_the_requested_compiler_is_used_for_the_local_gpu(here, compiler, expected):
    here(T4, tensorrt=False)
    assert resolve_target(None, compiler).compiler == expected


def test_onnx_runtime_without_a_gpu_targets_the_cpu():
    assert (
        resolve_target(None, "onnxruntime") == resolve_target("cpu") == resolve_target("cpu", "onnxruntime")
    )


@pytest.mark.parametrize(
    ("gpu", "compiler", "code", "fix"),
    [
        ("cpu", "tensorrt", "compiler-target-mismatch", "remove --compiler"),
        ("cpu", "tensorrt-rtx", "compiler-target-mismatch", "remove --compiler"),
        ("T4", "onnxruntime", "compiler-target-mismatch", "with that GPU"),
        ("local", "onnxruntime", "gpu-not-found", "--gpu cpu"),
        ("portable", "onnxruntime", "compiler-target-mismatch", "remove --compiler"),
        ("portable", "tensorrt", "compiler-target-mismatch", "remove --compiler"),
        ("A100", "tensorrt", "compiler-target-mismatch", "with that GPU"),
        (None, "tensorrt", "gpu-not-found", "remove --compiler"),
        (None, "nvcc", "unknown-compiler", "tensorrt, tensorrt-rtx, onnxruntime"),
    ],
)
def test_compilers_and_targets_that_do_not_match_are_refused(here, gpu, compiler, code, fix):
    here(None)
    with refuses(code) as caught:
        resolve_target(gpu, compiler)
    assert fix in caught.value.fix


def test_a_gpu_without_an_installed_compiler_is_refused_with_one_that_supports_it(here):
    here(H200, tensorrt=False)
    with refuses("compiler-target-mismatch") as caught:
        resolve_target(None)
    assert "NVIDIA's tensorrt" in caught.value.fix


@pytest.mark.parametrize("asked", [None, "local", "H200"])
def test_onnx_runtime_is_used_for_a_gpu_that_no_other_compiler_supports(here, monkeypatch, asked):
    here(H200, tensorrt=False)
    monkeypatch.setattr(targets, "is_installed", lambda compiler: compiler == "onnxruntime")
    monkeypatch.setattr(targets, "has_cuda", lambda: True)
    target = resolve_target(asked)
    assert (target.compiler, target.name, target.label) == ("onnxruntime", H200.name, "sm90")
    assert "ONNX Runtime's CUDA provider: TensorRT-RTX has no such target" in target.note


@pytest.mark.parametrize("asked", ["local", "T4"])
def test_onnx_runtime_can_be_requested_for_the_local_gpu(here, asked):
    here(T4)
    target = resolve_target(asked, "onnxruntime")
    assert target == Target(name=T4.name, compiler="onnxruntime", sm=75)
    assert not target.on_cpu
    assert target.runs_on(H200)
    assert [resolve_precision(target, each) for each in (None, "fp16", "fp32")] == ["fp16", "fp16", "fp32"]
    with refuses("precision-unsupported"):
        resolve_precision(target, "int8")


def test_the_default_int8_policy_depends_on_the_compiler(here):
    here(T4)
    assert resolve_int8_policy(resolve_target("T4")) == "bandwidth"
    assert resolve_int8_policy(resolve_target("T4"), "all-conv") == "all-conv"
    assert resolve_int8_policy(resolve_target("L4")) == "dense"
    assert resolve_int8_policy(resolve_target("cpu")) == "pointwise"
    assert (
        resolve_int8_policy(resolve_target("T4", "tensorrt-rtx")) == "pointwise"
    )  # which has no INT8 convolutions there


@pytest.mark.parametrize(
    ("target", "compatible", "runs", "others"),
    [
        (T4, False, [T4], [LocalGpu(name="Quadro RTX 5000", sm=75), RTX_4090]),
        (T4, True, [T4, LocalGpu(name="Quadro RTX 5000", sm=75)], [RTX_4090]),
        (RTX_4090, True, [RTX_4090, H200], [T4]),
        (RTX_4090, False, [RTX_4090], [LocalGpu(name="NVIDIA L4", sm=89)]),
    ],
)
def test_a_tensorrt_plan_runs_on_one_gpu_model_unless_it_is_hardware_compatible(
    target, compatible, runs, others
):
    built = Target(name=target.name, compiler="tensorrt", sm=target.sm, hardware_compatible=compatible)
    assert all(built.runs_on(gpu) for gpu in runs)
    assert not any(built.runs_on(gpu) for gpu in others)


@pytest.mark.parametrize("option", ["version_compatible", "hardware_compatible", "strip"])
@pytest.mark.parametrize("compiler", ["tensorrt-rtx", "onnxruntime"])
def test_an_unsupported_option_is_refused_with_the_compiler_that_supports_it(option, compiler):
    with refuses("option-not-applicable") as caught:
        BuildOptions(**{option: True}).require_supported_by(compiler)
    assert "TensorRT" in caught.value.fix
    BuildOptions(**{option: True}).require_supported_by("tensorrt")


def test_every_compiler_supports_the_default_options():
    for compiler in COMPILERS:
        BuildOptions().require_supported_by(compiler)


@pytest.mark.parametrize(
    "wrong", [{"optimization_level": 6}, {"optimization_level": -1}, {"workspace_mb": 0}]
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(DeployError):
        BuildOptions(**wrong)
