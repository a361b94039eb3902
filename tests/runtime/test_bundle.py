import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses

from deploykit.accuracy.evaluate import evaluate_model
from deploykit.engine.audit.graph_nodes import count_int8_products
from deploykit.engine.build import build_engine
from deploykit.engine.manifest import read_engine_manifest
from deploykit.engine.quantize_model import quantize_model
from deploykit.engine.shapes import BatchRange, SideRange
from deploykit.engine.targets import resolve_target
from deploykit.networks.export import export_onnx
from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.int8_options import Int8Options
from deploykit.runtime import Engine
from deploykit.runtime.bundle.bundle import Bundle, write_bundle
from deploykit.runtime.preflight import RuntimeEnvironment
from deploykit.util.install_hint import install_hint
from deploykit.util.local_gpu import LocalGpu, local_gpu

pytestmark = pytest.mark.skipif(
    local_gpu() is not None, reason="these are bundles on a machine without a GPU"
)

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "deploykit" / "bundles"


@pytest.fixture(scope="module")
def parts(random_b0, tmp_path_factory) -> dict[str, Path]:
    """An INT8 model and its engines."""
    folder = tmp_path_factory.mktemp("parts")
    int8, _ = quantize_model(onnx=random_b0.path, output=folder / "model.int8.onnx")
    t4, a100, cpu = (
        build_engine(onnx=random_b0.path, precision="int8", gpu=gpu, output=folder / f"{gpu}.engine").path
        for gpu in ("T4", "A100", "cpu")
    )
    return {"model": int8, "T4": t4, "A100": a100, "cpu": cpu}


@pytest.fixture(scope="module")
def bundled(parts, tmp_path_factory) -> Path:
    """A bundle with plans for T4 and A100."""
    output = tmp_path_factory.mktemp("bundle") / "b0.dkb"
    return write_bundle(parts["model"], [parts["T4"], parts["A100"]], output=output).path


def machine(gpu: LocalGpu | None) -> RuntimeEnvironment:
    import onnxruntime
    import tensorrt_rtx

    versions = {"tensorrt-rtx": tensorrt_rtx.__version__, "onnxruntime": onnxruntime.__version__}
    return RuntimeEnvironment(gpu=gpu, runtimes=versions)


@pytest.mark.parametrize(("sm", "chosen"), [(75, 0), (80, 1)])
def test_the_plan_for_the_gpu_is_chosen(bundled, sm, chosen):
    found = Bundle(bundled).resolve(machine(LocalGpu(name="card", sm=sm)))
    assert found.chosen_plan == Bundle(bundled).contents.plans[chosen]
    assert found.build_target is None


def test_a_gpu_plan_is_preferred_to_a_cpu_engine(parts, tmp_path):
    bundle = write_bundle(parts["model"], [parts["cpu"], parts["T4"]], output=tmp_path / "b.dkb")
    on_t4 = bundle.resolve(machine(LocalGpu(name="card", sm=75)))
    assert on_t4.chosen_plan.manifest.target.name == "T4"
    assert bundle.resolve(machine(None)).chosen_plan.manifest.target.name == "CPU"


def test_building_for_the_gpu_is_preferred_to_a_cpu_engine(parts, tmp_path, monkeypatch):
    bundle = write_bundle(parts["model"], [parts["cpu"], parts["T4"]], output=tmp_path / "b.dkb")
    l4 = LocalGpu(name="NVIDIA L4", sm=89)
    monkeypatch.setattr("deploykit.engine.targets.local_gpu", lambda: l4)
    found = bundle.resolve(machine(l4))
    assert (found.chosen_plan, found.build_target.name) == (None, "NVIDIA L4")


def test_an_engine_is_built_once_and_cached_if_no_plan_runs(bundled, parts, cache, caplog):
    stages: list[str] = []

    def progress(stage: str, done: float = 0, total: float | None = None) -> None:
        stages.append(stage)

    with Engine.load(bundled, threads=1, progress=progress) as engine:
        first = engine(IMAGES)
    assert f"No plan in {bundled} runs on this machine, so an engine for the CPU is built." in caplog.text
    caplog.clear()
    (made,) = cache.glob("*/*.engine")
    before = made.stat().st_mtime_ns
    stages.clear()
    with Engine.load(bundled, threads=1, progress=progress) as engine:
        np.testing.assert_array_equal(engine(IMAGES), first)
    assert made.stat().st_mtime_ns == before
    assert stages == caplog.messages == []
    with Engine.load(parts["cpu"], threads=1) as engine:  # of the same ranges, built the usual way
        np.testing.assert_array_equal(engine(IMAGES), first)


H200 = LocalGpu(name="NVIDIA H200", sm=90)


def test_the_cpu_is_used_if_no_compiler_builds_for_the_gpu(parts, bundled, tmp_path, monkeypatch):
    monkeypatch.setattr("deploykit.engine.targets.local_gpu", lambda: H200)
    found = Bundle(bundled).resolve(machine(H200))
    assert found.build_target == resolve_target("cpu")
    assert "can't compile for NVIDIA H200 (SM90)" in found.fallback_reason
    with_artifact = write_bundle(parts["model"], [parts["cpu"]], output=tmp_path / "b.dkb")
    found = with_artifact.resolve(machine(H200))
    assert found.chosen_plan.manifest.target.name == "CPU"
    assert "can't compile for NVIDIA H200 (SM90)" in found.fallback_reason


def test_the_cpu_is_used_if_the_gpus_compiler_is_missing(bundled, monkeypatch):
    l4 = LocalGpu(name="NVIDIA L4", sm=89)
    monkeypatch.setattr("deploykit.engine.targets.local_gpu", lambda: l4)
    found = Bundle(bundled).resolve(RuntimeEnvironment(gpu=l4, runtimes={"onnxruntime": "1.31.1"}))
    assert found.build_target == resolve_target("cpu")
    assert "TensorRT-RTX" in found.fallback_reason
    assert Bundle(bundled).resolve(machine(l4)).build_target.name == "NVIDIA L4"


def test_int8_is_not_given_to_onnx_runtime_on_a_gpu(bundled, random_b0, tmp_path, monkeypatch):
    monkeypatch.setattr("deploykit.engine.targets.local_gpu", lambda: H200)
    monkeypatch.setattr("deploykit.engine.targets.has_cuda", lambda: True)
    assert "no INT8 convolutions on GPUs" in Bundle(bundled).resolve(machine(H200)).fallback_reason
    fp16 = write_bundle(random_b0.path, output=tmp_path / "b.dkb").resolve(machine(H200))
    assert (fp16.build_target.compiler, fp16.build_target.sm, fp16.fallback_reason) == (
        "onnxruntime",
        90,
        None,
    )


def test_a_modified_cached_engine_is_rebuilt(bundled, cache):
    Engine.load(bundled).close()
    (made,) = cache.glob("*/*.engine")
    sound = made.read_bytes()
    made.write_bytes(sound[:-9])
    Engine.load(bundled).close()
    assert made.read_bytes() == sound


def test_a_plan_is_unpacked_once(parts, tmp_path, cache):
    bundle = write_bundle(parts["model"], [parts["cpu"]], output=tmp_path / "b.dkb")
    with Engine.load(bundle.path, threads=1) as engine:
        answer = engine(IMAGES)
    (unpacked,) = cache.glob("*/*.engine")
    assert unpacked.read_bytes() == parts["cpu"].read_bytes()
    with Engine.load(parts["cpu"], threads=1) as engine:
        np.testing.assert_array_equal(engine(IMAGES), answer)


def test_an_fp32_model_is_built_as_fp32_on_the_cpu(random_b0, tmp_path):
    bundle = write_bundle(random_b0.path, output=tmp_path / "b.dkb", batches=[BatchRange(max=4)])
    assert bundle.contents.precision == "fp16"
    with Engine.load(bundle.path) as engine:
        assert engine.manifest.precision == "fp32"
        assert engine.manifest.model.onnx_sha256 == bundle.contents.fp32_sha256
        assert engine.manifest.batches == (BatchRange(max=4),)
        assert engine(IMAGES).shape == (2, 1000)


def test_a_bundled_model_with_uint8_input_takes_uint8(tmp_path):
    model = export_onnx(0, side_px=64, preprocess=True, output=tmp_path / "model.onnx").path
    bundle = write_bundle(model, output=tmp_path / "b.dkb")
    with Engine.load(bundle.path) as engine:
        assert engine(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 1000)


def test_evaluating_a_bundle_evaluates_its_engine(bundled, random_b0, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "i.npz", images=pixels)
    found = evaluate_model(bundled, tmp_path / "i.npz", reference=random_b0.path)
    assert found.scores.sqnr_db > 10
    assert found.model.path == bundled


@pytest.mark.parametrize(("alone", "count"), [(True, 33), (False, 33)])
def test_int8_products_of_a_quantized_model_are_counted(parts, alone, count):
    """They are the pointwise convolutions and the classifier of B0."""
    assert count_int8_products(read_model(parts["model"]), matrix_products_only=alone) == count


def test_convolutions_that_are_not_matrix_products_are_counted_separately(random_b0, tmp_path):
    options = Int8Options(policy="bandwidth", float_budget=0)
    int8, _ = quantize_model(onnx=random_b0.path, int8=options, output=tmp_path / "b.onnx")
    model = read_model(int8)
    assert count_int8_products(model, matrix_products_only=True) == 33
    assert count_int8_products(model, matrix_products_only=False) == 33 + 16  # and a depthwise one each block


def test_a_bundle_is_refused_where_an_engine_is_required(bundled):
    with refuses("bundle-not-an-engine") as caught:
        read_engine_manifest(bundled)
    assert "deploykit check" in caught.value.fix


# ---------------------------------------------------------------- what can't be built

SIDES = SideRange(min=48, opt=64, max=80)


@pytest.fixture
def for_many_sides(parts, tmp_path) -> Path:
    """An INT8 bundle for a range of sides; ONNX Runtime supports INT8 for one side only."""
    return write_bundle(parts["model"], [parts["T4"]], output=tmp_path / "b.dkb", side=SIDES).path


def test_check_and_load_refuse_int8_for_a_range_of_sides_on_the_cpu(run, for_many_sides):
    checked = run("check", "b.dkb")
    assert checked.status == 3
    assert "b.dkb: cannot run here\n" in checked.out
    with refuses("bundle-cannot-run") as caught:
        Engine.load("b.dkb")
    assert "for the CPU" in caught.value.problem
    assert caught.value.problem in checked.out
    found = json.loads(run("check", "b.dkb", "--json").out)
    assert (found["runs"], found["would_build"], found["kept"]) == (False, None, False)
    error = caught.value
    assert found["refusal"] == {"code": error.code, "problem": error.problem, "fix": error.fix}


def test_int8_for_a_range_of_sides_is_built_for_a_gpu(for_many_sides, monkeypatch):
    l4 = LocalGpu(name="NVIDIA L4", sm=89)
    monkeypatch.setattr("deploykit.engine.targets.local_gpu", lambda: l4)
    found = Bundle(for_many_sides).resolve(machine(l4))
    assert (found.build_target.name, found.runs) == ("NVIDIA L4", True)
    without_compiler = Bundle(for_many_sides).resolve(
        RuntimeEnvironment(gpu=l4, runtimes={"onnxruntime": "1.31.1"})
    )
    assert without_compiler.error.code == "bundle-cannot-run"
    assert "TensorRT-RTX" in without_compiler.fallback_reason


def test_bundling_notes_that_int8_for_a_range_of_sides_needs_a_gpu(run, parts, monkeypatch):
    sides = ("--side", "48,64,80", "-o", "b.dkb")
    made = run("bundle", str(parts["model"]), str(parts["T4"]), *sides)
    assert made.status == 0
    assert "note: The bundle cannot be loaded on a machine without a GPU" in made.err
    with_cpu = run("bundle", str(parts["model"]), str(parts["cpu"]), *sides)
    assert (with_cpu.status, with_cpu.err) == (0, "")
    assert run("check", "b.dkb").status == 0


WITHOUT_ONNX_RUNTIME = """
import sys
sys.modules["onnxruntime"] = None
sys.argv = ["deploykit", *sys.argv[1:]]
from deploykit.cli.main import main
main()
"""


@pytest.mark.parametrize("engine", ["T4", "cpu"])
def test_without_onnx_runtime_check_and_load_say_what_is_missing(parts, tmp_path, engine):
    write_bundle(parts["model"], [parts[engine]], output=tmp_path / "b.dkb")

    def outcome(*arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-c", WITHOUT_ONNX_RUNTIME, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    status, shown, _ = outcome("check", "b.dkb")
    assert status == 3
    problem = (
        "No plan in b.dkb runs on this machine, and ONNX Runtime, which could build one, is not installed."
    )
    assert shown.endswith(f"b.dkb: cannot run here\n  {problem}\n  {install_hint('cpu')}\n")
    status, _, told = outcome("bench", "b.dkb")
    assert (status, told) == (2, f"error: {problem} [bundle-cannot-run]\n  fix: {install_hint('cpu')}\n")


# ---------------------------------------------------------------- the command line


def test_bundle_check_and_bench_work_from_the_command_line(run, parts, tmp_path):
    for name, path in parts.items():
        shutil.copy(path, tmp_path / f"{name}.file")
        if name != "model":
            shutil.copy(f"{path}.json", tmp_path / f"{name}.file.json")
    made = run("bundle", "model.file", "T4.file", "A100.file", "-o", "b.dkb")
    assert made.status == 0
    assert "b.dkb: INT8 model and 2 plans" in made.out
    before = run("check", "b.dkb")
    assert before.status == 0
    assert "none of its plans runs here; one for the CPU will be built when it is loaded" in before.out
    assert run("bench", "b.dkb", "--seconds", "0.1").status == 0
    assert "was built before and is kept" in run("check", "b.dkb").out
    found = json.loads(run("check", "b.dkb", "--json").out)
    assert (len(found["plans"]), found["would_build"], found["kept"]) == (2, "the CPU", True)
    refused = run("inspect", "b.dkb")
    assert refused.status == 2
    assert "deploykit check b.dkb" in refused.err
