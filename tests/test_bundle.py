import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from by_hand import graph_of, weight
from onnx import helper

from deploykit.engine.manifest import is_bundle, read_manifest
from deploykit.engine.shapes import BatchRange, SideRange
from deploykit.engine.targets import target_for
from deploykit.engine.work import int8_products
from deploykit.errors import DeployError
from deploykit.evaluate import evaluate_model
from deploykit.export import Export, export_onnx
from deploykit.local_gpu import LocalGpu, local_gpu
from deploykit.model_file import read_model
from deploykit.pipeline import build_engine, quantize_model
from deploykit.quantize.plan import Int8Options
from deploykit.runtime import Engine
from deploykit.runtime.bundle import Bundle, write_bundle
from deploykit.runtime.preflight import Machine

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
    """The model in INT8, and engines of it."""
    folder = tmp_path_factory.mktemp("parts")
    int8, _ = quantize_model(onnx=random_b0.path, output=folder / "model.int8.onnx")
    t4, a100, cpu = (
        build_engine(onnx=random_b0.path, precision="int8", gpu=gpu, output=folder / f"{gpu}.engine").path
        for gpu in ("T4", "A100", "cpu")
    )
    return {"model": int8, "T4": t4, "A100": a100, "cpu": cpu}


@pytest.fixture(scope="module")
def bundled(parts, tmp_path_factory) -> Path:
    """For T4 and A100."""
    output = tmp_path_factory.mktemp("bundle") / "b0.dkb"
    return write_bundle(parts["model"], [parts["T4"], parts["A100"]], output=output).path


def machine(gpu: LocalGpu | None) -> Machine:
    import onnxruntime
    import tensorrt_rtx

    versions = {"tensorrt-rtx": tensorrt_rtx.__version__, "onnxruntime": onnxruntime.__version__}
    return Machine(gpu=gpu, runtimes=versions)


@pytest.mark.parametrize(("sm", "chosen"), [(75, 0), (80, 1)])
def test_the_plan_that_runs_on_the_gpu_is_taken(bundled, sm, chosen):
    found = Bundle(bundled).prospect(machine(LocalGpu(name="card", sm=sm)))
    assert found.chosen == Bundle(bundled).contents.plans[chosen]
    assert found.target is None


def test_a_gpus_plan_comes_before_an_artifact_for_the_cpu(parts, tmp_path):
    bundle = write_bundle(parts["model"], [parts["cpu"], parts["T4"]], output=tmp_path / "b.dkb")
    on_t4 = bundle.prospect(machine(LocalGpu(name="card", sm=75)))
    assert on_t4.chosen.manifest.target.name == "T4"
    assert bundle.prospect(machine(None)).chosen.manifest.target.name == "CPU"


def test_where_no_plan_runs_one_is_built_once_and_kept(bundled, parts, cache, caplog):
    sentences: list[str] = []
    with Engine.load(bundled, threads=1, progress=sentences.append) as engine:
        first = engine(IMAGES)
    assert f"No plan in {bundled} runs here: building one for the CPU." in caplog.text
    caplog.clear()
    (made,) = cache.glob("*/*.engine")
    before = made.stat().st_mtime_ns
    sentences.clear()
    with Engine.load(bundled, threads=1, progress=sentences.append) as engine:
        np.testing.assert_array_equal(engine(IMAGES), first)
    assert made.stat().st_mtime_ns == before
    assert sentences == caplog.messages == []
    with Engine.load(parts["cpu"], threads=1) as engine:  # of the same ranges, built the usual way
        np.testing.assert_array_equal(engine(IMAGES), first)


H200 = LocalGpu(name="NVIDIA H200", sm=90)


def test_a_gpu_that_nothing_builds_for_is_left_for_the_cpu(parts, bundled, tmp_path, monkeypatch):
    monkeypatch.setattr("deploykit.engine.targets.local_gpu", lambda: H200)
    found = Bundle(bundled).prospect(machine(H200))
    assert found.target == target_for("cpu")
    assert "can't compile for NVIDIA H200 (SM90)" in found.drawback
    with_artifact = write_bundle(parts["model"], [parts["cpu"]], output=tmp_path / "b.dkb")
    found = with_artifact.prospect(machine(H200))
    assert found.chosen.manifest.target.name == "CPU"
    assert "can't compile for NVIDIA H200 (SM90)" in found.drawback


def test_a_gpu_whose_compiler_is_missing_is_left_for_the_cpu(bundled, monkeypatch):
    l4 = LocalGpu(name="NVIDIA L4", sm=89)
    monkeypatch.setattr("deploykit.engine.targets.local_gpu", lambda: l4)
    found = Bundle(bundled).prospect(Machine(gpu=l4, runtimes={"onnxruntime": "1.31.1"}))
    assert found.target == target_for("cpu")
    assert "TensorRT-RTX is missing" in found.drawback
    assert Bundle(bundled).prospect(machine(l4)).target.name == "NVIDIA L4"


def test_int8_is_not_handed_to_onnx_runtime_on_a_gpu(bundled, random_b0, tmp_path, monkeypatch):
    monkeypatch.setattr("deploykit.engine.targets.local_gpu", lambda: H200)
    monkeypatch.setattr("deploykit.engine.targets.has_cuda", lambda: True)
    assert "no INT8 convolutions on GPUs" in Bundle(bundled).prospect(machine(H200)).drawback
    fp16 = write_bundle(random_b0.path, output=tmp_path / "b.dkb").prospect(machine(H200))
    assert (fp16.target.compiler, fp16.target.sm, fp16.drawback) == ("onnxruntime", 90, None)


def test_a_kept_engine_that_was_altered_is_built_again(bundled, cache):
    Engine.load(bundled).close()
    (made,) = cache.glob("*/*.engine")
    sound = made.read_bytes()
    made.write_bytes(sound[:-9])
    Engine.load(bundled).close()
    assert made.read_bytes() == sound


def test_a_plan_that_runs_is_unpacked_once(parts, tmp_path, cache):
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


def test_a_model_that_takes_uint8_does_so_in_a_bundle(tmp_path):
    model = export_onnx(0, side_px=64, preprocess=True, output=tmp_path / "model.onnx").path
    bundle = write_bundle(model, output=tmp_path / "b.dkb")
    with Engine.load(bundle.path) as engine:
        assert engine(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 1000)


def test_two_processes_that_load_it_at_once_get_one_engine(bundled, cache):
    program = "import sys; from deploykit.runtime import Engine; Engine.load(sys.argv[1]).close()"
    command = [sys.executable, "-c", program, str(bundled)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    (made,) = cache.glob("*/*.engine")
    read_manifest(made)


def test_a_bundle_is_evaluated_as_its_engine(bundled, random_b0, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "i.npz", images=pixels)
    found = evaluate_model(bundled, tmp_path / "i.npz", reference=random_b0.path)
    assert found.scores.sqnr_db > 10
    assert found.model.path == bundled


def test_equal_parts_give_equal_bundles(bundled, parts, tmp_path):
    again = write_bundle(parts["model"], [parts["T4"], parts["A100"]], output=tmp_path / "again.dkb").path
    assert again.read_bytes() == bundled.read_bytes()


@pytest.mark.parametrize(("alone", "count"), [(True, 33), (False, 33)])
def test_the_products_in_int8_of_a_quantized_model_are_counted(parts, alone, count):
    """B0's pointwise convolutions and classifier."""
    assert int8_products(read_model(parts["model"]), matrices_alone=alone) == count


def test_convolutions_that_are_no_matrix_products_are_told_apart(random_b0, tmp_path):
    options = Int8Options(policy="bandwidth", spare=0)
    int8, _ = quantize_model(onnx=random_b0.path, int8=options, output=tmp_path / "b.onnx")
    model = read_model(int8)
    assert int8_products(model, matrices_alone=True) == 33
    assert int8_products(model, matrices_alone=False) == 33 + 16  # and a depthwise one each block


def test_a_cache_that_was_filled_may_be_read_only(bundled, cache, monkeypatch):
    Engine.load(bundled).close()

    def refuse(self):
        raise AssertionError("the cache was locked, to be written")

    monkeypatch.setattr(Bundle, "_locked", refuse)
    Engine.load(bundled).close()


# ---------------------------------------------------------------- what is no bundle, or goes with none


def rewritten(bundled: Path, path: Path, change) -> Path:
    """A copy in which change(name, data) gives each file's data."""
    with zipfile.ZipFile(bundled) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return path


def test_an_altered_model_is_not_built(bundled, tmp_path, cache):
    broken = rewritten(
        bundled, tmp_path / "x.dkb", lambda name, data: data[:-1] if name == "model.onnx" else data
    )
    with pytest.raises(DeployError, match=r"model\.onnx in .* is not the file it was bundled as"):
        Engine.load(broken)
    assert not list(cache.glob("*/*.engine*"))


@pytest.mark.parametrize("part", ["plans/0.engine", "plans/1.engine"])
def test_check_finds_an_altered_plan(run, bundled, tmp_path, part):
    rewritten(bundled, tmp_path / "x.dkb", lambda name, data: data + b"." if name == part else data)
    shown = run("check", "x.dkb")
    assert "another, or unreadable" in shown.out


def test_check_finds_an_altered_model(run, bundled, tmp_path):
    rewritten(bundled, tmp_path / "x.dkb", lambda name, data: data[:-1] if name == "model.onnx" else data)
    refused = run("check", "x.dkb")
    assert refused.status == 2
    assert "is not the file it was bundled as" in refused.err


def test_a_bundle_does_not_replace_what_it_is_made_from(parts, tmp_path):
    before = parts["T4"].read_bytes()
    for output in (parts["model"], parts["T4"]):
        with pytest.raises(DeployError, match="would replace what it is made from"):
            write_bundle(parts["model"], [parts["T4"]], output=output)
    assert parts["T4"].read_bytes() == before


def test_where_one_engine_is_wanted_a_bundle_is_called_one(bundled):
    with pytest.raises(DeployError, match="is a bundle of several engines") as caught:
        read_manifest(bundled)
    assert "deploykit check" in caught.value.fix


def test_an_altered_plan_is_not_unpacked(parts, tmp_path, cache):
    bundle = write_bundle(parts["model"], [parts["cpu"]], output=tmp_path / "b.dkb")
    broken = rewritten(
        bundle.path, tmp_path / "x.dkb", lambda name, data: data + b"." if name.startswith("plans") else data
    )
    with pytest.raises(DeployError, match=r"plans/0\.engine in .* is not the file"):
        Engine.load(broken)
    assert not list(cache.glob("*/*.engine*"))


@pytest.mark.parametrize("name", ["../../x.engine", "/etc/x.engine", "plans/../x.engine", "plans/a.engine"])
def test_a_plans_name_cannot_leave_the_archive(bundled, tmp_path, name):
    def change(file, data):
        if file != "bundle.json":
            return data
        contents = json.loads(data)
        contents["plans"][0]["name"] = name
        return json.dumps(contents)

    with pytest.raises(DeployError, match="is no bundle, or was damaged"):
        Bundle(rewritten(bundled, tmp_path / "x.dkb", change))


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"no bundle"], ids=["empty", "a zip's first bytes", "text"]
)
def test_garbage_is_refused(tmp_path, content):
    (tmp_path / "x.dkb").write_bytes(content)
    with pytest.raises(DeployError):
        Bundle(tmp_path / "x.dkb")


def test_a_bundle_cut_short_is_refused_wherever_it_is_given(run, bundled, tmp_path):
    (tmp_path / "cut.dkb").write_bytes(bundled.read_bytes()[:-1000])
    assert is_bundle(tmp_path / "cut.dkb")
    for command in (["check"], ["bench"], ["eval", "--data", "generated"]):
        refused = run(command[0], "cut.dkb", *command[1:])
        assert (refused.status, refused.out) == (2, "")
        assert "is no bundle, or was damaged" in refused.err


def test_engines_of_another_model_are_not_bundled(parts, tmp_path):
    other: Export = export_onnx(0, side_px=32, output=tmp_path / "other.onnx")
    with pytest.raises(DeployError, match="was made from another model"):
        write_bundle(other.path, [parts["T4"]], output=tmp_path / "x.dkb")
    assert not (tmp_path / "x.dkb").exists()


def test_a_precision_that_the_model_does_not_have_is_refused(parts, random_b0, tmp_path):
    for path, precision, about in (
        (parts["model"], "fp32", "INT8 already"),
        (random_b0.path, "int8", "no Q/DQ"),
    ):
        with pytest.raises(DeployError, match=about):
            write_bundle(path, output=tmp_path / "x.dkb", precision=precision)


def test_integers_for_many_sides_are_not_built_on_the_cpu_from_a_bundle_either(parts, tmp_path):
    side = SideRange(min=48, opt=64, max=80)
    bundle = write_bundle(parts["model"], output=tmp_path / "b.dkb", side=side)
    with pytest.raises(DeployError, match="for images of one side"):
        Engine.load(bundle.path)


def test_a_side_that_the_model_cannot_take_is_refused_when_bundling(tmp_path):
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], name="f"),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="y"),
    ]
    model = graph_of(nodes, {"w": weight(3 * 32 * 32, 2)}, takes={"x": (3, 32, 32)}, gives={"y": (2,)})
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(DeployError, match="can't take images of 64 px"):
        write_bundle(tmp_path / "m.onnx", output=tmp_path / "b.dkb", side=SideRange(min=32, opt=32, max=64))
    assert not (tmp_path / "b.dkb").exists()


def test_a_cache_that_cannot_be_written_is_told(bundled, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DeployError, match=r"cache folder .* can't be written") as caught:
        Engine.load(bundled)
    assert "XDG_CACHE_HOME" in caught.value.fix


# ---------------------------------------------------------------- the command line


def test_bundle_check_and_bench_from_the_command_line(run, parts, tmp_path):
    for name, path in parts.items():
        shutil.copy(path, tmp_path / f"{name}.file")
        if name != "model":
            shutil.copy(f"{path}.json", tmp_path / f"{name}.file.json")
    made = run("bundle", "model.file", "T4.file", "A100.file", "-o", "b.dkb")
    assert made.status == 0
    assert "b.dkb: INT8 model and 2 plans" in made.out
    before = run("check", "b.dkb")
    assert before.status == 0
    assert "no plan of it runs here; one for the CPU would be built when it is loaded" in before.out
    assert run("bench", "b.dkb", "--seconds", "0.1").status == 0
    assert "was built before and is kept" in run("check", "b.dkb").out
    found = json.loads(run("check", "b.dkb", "--json").out)
    assert (len(found["plans"]), found["would_build"], found["kept"]) == (2, "the CPU", True)
    refused = run("inspect", "b.dkb")
    assert refused.status == 2
    assert "deploykit check b.dkb" in refused.err
