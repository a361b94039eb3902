"""Preflight checks against machines that are described by hand."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refuses

from deploykit.engine.build import build_engine
from deploykit.engine.compilers import BuildOptions
from deploykit.engine.manifest import EngineManifest, manifest_path, read_engine_manifest, write_engine
from deploykit.engine.shapes import BatchRange
from deploykit.engine.targets import Target
from deploykit.runtime.preflight import RuntimeEnvironment, check_requirements, detect_environment, preflight
from deploykit.util.errors import DeployError
from deploykit.util.install_hint import install_hint
from deploykit.util.local_gpu import LocalGpu, local_gpu

T4 = Target(name="T4", compiler="tensorrt-rtx", sm=75)
RTX_4090 = Target(name="RTX 4090", compiler="tensorrt-rtx", sm=89)
PORTABLE = Target(name="portable", compiler="tensorrt-rtx")
CPU = Target(name="CPU", compiler="onnxruntime")
BUILT_BY = "1.7.1.116"


@pytest.fixture(scope="module")
def manifest(random_b0, tmp_path_factory) -> EngineManifest:
    output = tmp_path_factory.mktemp("cpu") / "model.onnx"
    built = build_engine(onnx=random_b0.path, gpu="cpu", batches=[BatchRange(max=4)], output=output)
    return built.manifest


@pytest.fixture
def engine_for(manifest, tmp_path):
    """Return a function that writes an engine file with a manifest for a target."""

    def write(target: Target) -> Path:
        path = tmp_path / "model.engine"
        plan = b"a plan"
        digest = hashlib.sha256(plan).hexdigest()
        says = replace(manifest, target=target, compiler_version=BUILT_BY, engine_sha256=digest)
        write_engine(path, plan, says)
        return path

    return write


def machine(sm: int | None, **versions: str) -> RuntimeEnvironment:
    gpu = None if sm is None else LocalGpu(name=f"card {sm}", sm=sm)
    runtimes = {"tensorrt-rtx": BUILT_BY, "onnxruntime": "1.20.0"}
    return RuntimeEnvironment(gpu=gpu, runtimes=versions or runtimes)


@pytest.mark.parametrize(
    ("target", "sm"),
    [(T4, 75), (RTX_4090, 89), *((PORTABLE, sm) for sm in (80, 86, 89, 120, 121)), (CPU, None), (CPU, 75)],
)
def test_an_engine_runs_on_the_gpus_it_was_compiled_for(engine_for, target, sm):
    found = preflight(engine_for(target), machine(sm))
    assert found.runs
    found.require()


@pytest.mark.parametrize(
    ("target", "sm", "problem", "fix"),
    [
        (T4, 89, "is for T4 (SM75), but this machine has card 89 (SM89)", "--gpu local"),
        (RTX_4090, 86, "is for RTX 4090 (SM89), but this machine has card 86 (SM86)", "--gpu local"),
        (PORTABLE, 75, "SM80, 86, 89, 120 and later, but this machine has card 75 (SM75)", "--gpu local"),
        (PORTABLE, 90, "SM80, 86, 89, 120 and later, but this machine has card 90 (SM90)", "--gpu"),
        (T4, None, "is for T4 (SM75), but this machine has no NVIDIA GPU", "--gpu cpu"),
    ],
)
def test_an_engine_for_another_gpu_is_refused_with_both_names(engine_for, target, sm, problem, fix):
    found = preflight(engine_for(target), machine(sm))
    assert not found.runs
    with refuses("engine-cannot-run") as caught:
        found.require()
    assert problem in caught.value.problem
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("target", "versions", "problem", "fix"),
    [
        (
            T4,
            {"tensorrt-rtx": "1.8.0"},
            "TensorRT-RTX 1.7.1.116, but this machine has 1.8.0",
            "rebuild",
        ),
        (
            T4,
            {"onnxruntime": "1.20"},
            "needs TensorRT-RTX 1.7.1.116, which is not installed",
            install_hint("gpu"),
        ),
        (CPU, {"tensorrt-rtx": BUILT_BY}, "needs ONNX Runtime", install_hint("cpu")),
    ],
)
def test_a_missing_or_different_compiler_version_is_refused(engine_for, target, versions, problem, fix):
    with refuses("engine-cannot-run") as caught:
        preflight(engine_for(target), machine(75, **versions)).require()
    assert problem in caught.value.problem
    assert fix in caught.value.fix


@pytest.mark.parametrize(("here", "runs"), [("10.3.0", False), ("10.16.1.11", True), ("11.4.0.106", True)])
def test_a_version_compatible_plan_runs_with_later_versions(engine_for, manifest, here, runs):
    t4 = LocalGpu(name="Tesla T4", sm=75)
    target = Target(name=t4.name, compiler="tensorrt", sm=t4.sm)
    for compatible in (True, False):
        says = replace(
            manifest,
            target=target,
            compiler_version="10.16.1.11",
            options=BuildOptions(version_compatible=compatible),
        )
        checks = check_requirements(says, RuntimeEnvironment(gpu=t4, runtimes={"tensorrt": here}))
        assert all(check.holds for check in checks) == (runs if compatible else here == "10.16.1.11")


def test_an_onnx_runtime_engine_runs_with_any_version(engine_for):
    assert preflight(engine_for(CPU), machine(None, onnxruntime="9.9")).runs


@pytest.mark.parametrize(
    ("gpu", "has_cuda", "about", "fix"),
    [
        (None, True, "is for H200 (SM90), but this machine has no NVIDIA GPU", "--gpu cpu"),
        (
            "T4",
            False,
            "but this machine has 1.31.1 without the CUDA provider",
            "onnxruntime-gpu",
        ),
        ("T4", True, None, None),
    ],
)
def test_an_onnx_runtime_gpu_engine_needs_a_gpu_and_the_cuda_provider(engine_for, gpu, has_cuda, about, fix):
    path = engine_for(Target(name="H200", compiler="onnxruntime", sm=90))
    found = preflight(
        path,
        RuntimeEnvironment(
            gpu=gpu and LocalGpu(name=gpu, sm=75), runtimes={"onnxruntime": "1.31.1"}, has_cuda=has_cuda
        ),
    )
    assert found.runs == (about is None)
    if about is not None:
        with refuses("engine-cannot-run") as caught:
            found.require()
        assert about in caught.value.problem
        assert fix in caught.value.fix


def test_the_runtimes_of_this_machine_are_detected():
    import onnxruntime
    import tensorrt_rtx

    found = detect_environment()
    assert found.gpu == local_gpu()
    assert found.runtimes["onnxruntime"] == onnxruntime.__version__
    assert found.runtimes["tensorrt-rtx"] == tensorrt_rtx.__version__
    assert detect_environment("onnxruntime").runtimes.keys() == {"onnxruntime"}


def test_a_modified_plan_or_a_foreign_manifest_is_refused_first(engine_for):
    path = engine_for(T4)
    path.write_bytes(b"another plan")
    with refuses("engine-damaged"):
        preflight(path, machine(75))
    manifest_path(path).unlink()
    with pytest.raises(DeployError, match="no manifest"):
        preflight(path, machine(75))


def test_check_says_whether_an_engine_runs_here(run, engine_for):
    path = engine_for(CPU)
    assert read_engine_manifest(path).target == CPU
    shown = run("check", str(path))
    assert (shown.status, shown.err) == (0, "")
    assert f"{path}: runs here" in shown.out
    found = json.loads(run("check", str(path), "--json").out)
    assert found["runs"] is True
    assert [check["name"] for check in found["checks"]] == ["SHA-256", "ONNX Runtime"]


@pytest.mark.skipif(local_gpu() is not None, reason="the GPU of this machine may run it")
def test_check_exits_with_3_and_prints_the_fix(run, engine_for):
    shown = run("check", str(engine_for(T4)))
    assert shown.status == 3
    assert "cannot run here" in shown.out
    assert re.search("GPU: .*deploykit build-engine --gpu cpu", shown.out)
    assert json.loads(run("check", str(engine_for(T4)), "--json").out)["runs"] is False


def test_check_refuses_a_file_that_is_not_an_engine(run, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"no engine")
    refused = run("check", "photo.png")
    assert (refused.status, refused.out) == (2, "")
    assert "has no manifest" in refused.err
