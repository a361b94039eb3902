import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from handmade_graphs import graph_of, weight
from onnx import helper
from refusals import refuses
from small_models import colour_blocks, colour_ranges

from deploykit.engine.build import build_engine
from deploykit.engine.manifest import manifest_path
from deploykit.engine.quantize_model import quantize_model
from deploykit.engine.shapes import SideRange
from deploykit.quantize.int8_options import Int8Options
from deploykit.runtime.bundle.bundle import Bundle, write_bundle


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Path]:
    """FP32 and INT8 models, with an engine for the CPU of each."""
    folder = tmp_path_factory.mktemp("parts")
    fp32 = colour_blocks(folder / "model.onnx")
    colour_ranges(fp32).save(folder / "ranges.json")
    int8 = Int8Options(ranges=folder / "ranges.json")
    quantized, _ = quantize_model(onnx=fp32, int8=int8, output=folder / "model.int8.onnx")
    built = {
        name: build_engine(
            onnx=fp32, precision=precision, int8=options, gpu="cpu", output=folder / f"{name}.onnx"
        ).path
        for name, precision, options in (("fp32 engine", "fp32", None), ("int8 engine", "int8", int8))
    }
    return {"fp32": fp32, "int8": quantized, **built}


def test_the_same_parts_give_the_same_bundle(parts, tmp_path):
    first, second = (
        write_bundle(parts["int8"], [parts["int8 engine"]], output=tmp_path / name).path.read_bytes()
        for name in ("a.dkb", "b.dkb")
    )
    assert first == second


def test_an_engine_of_another_model_is_refused(parts, tmp_path):
    other = colour_blocks(tmp_path / "other.onnx", random=True)
    with refuses("engine-wrong-model"):
        write_bundle(other, [parts["fp32 engine"]], output=tmp_path / "x.dkb")
    assert not (tmp_path / "x.dkb").exists()


@pytest.mark.parametrize(
    ("model", "precision", "code"),
    [("int8", "fp32", "model-not-fp32"), ("fp32", "int8", "model-not-quantized")],
)
def test_a_precision_that_the_model_cannot_have_is_refused(parts, tmp_path, model, precision, code):
    with refuses(code):
        write_bundle(parts[model], output=tmp_path / "x.dkb", precision=precision)


def test_a_side_that_the_model_cannot_take_is_refused(tmp_path):
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], name="f"),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="y"),
    ]
    model = graph_of(nodes, {"w": weight(3 * 32 * 32, 2)}, takes={"x": (3, 32, 32)}, gives={"y": (2,)})
    onnx.save(model, tmp_path / "m.onnx")
    with refuses("dynamic-side-unsupported"):
        write_bundle(tmp_path / "m.onnx", output=tmp_path / "b.dkb", side=SideRange(min=32, opt=32, max=64))
    assert not (tmp_path / "b.dkb").exists()


@pytest.mark.parametrize("engine", ["fp32 engine", "int8 engine"])
@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_cpu_engine_is_refused_as_a_model(parts, tmp_path, engine, has_manifest):
    """It is an ONNX file too, but lowered for one compiler."""
    shutil.copy(parts[engine], tmp_path / "m.onnx")
    if has_manifest:
        shutil.copy(manifest_path(parts[engine]), tmp_path / "m.onnx.json")
    with refuses("not-an-onnx-model") as caught:
        write_bundle(tmp_path / "m.onnx", output=tmp_path / "x.dkb")
    assert "deploykit export or deploykit quantize" in caught.value.fix
    assert not (tmp_path / "x.dkb").exists()


def test_the_same_engine_twice_is_refused(parts, tmp_path):
    engine = parts["int8 engine"]
    shutil.copy(engine, tmp_path / "copy.onnx")
    shutil.copy(manifest_path(engine), tmp_path / "copy.onnx.json")
    for again in (engine, tmp_path / "copy.onnx"):
        with refuses("engine-repeated"):
            write_bundle(parts["int8"], [engine, parts["fp32 engine"], again], output=tmp_path / "x.dkb")
    both = write_bundle(parts["int8"], [engine, parts["fp32 engine"]], output=tmp_path / "x.dkb")
    assert [plan.manifest.precision for plan in both.contents.plans] == ["int8", "fp32"]


# ---------------------------------------------------------------- what -o may replace


@pytest.mark.parametrize("what", ["model", "engine", "manifest"])
def test_a_bundle_does_not_replace_its_inputs(parts, tmp_path, what):
    engine = parts["int8 engine"]
    output = {"model": parts["int8"], "engine": engine, "manifest": manifest_path(engine)}[what]
    before = output.read_bytes()
    with refuses("output-is-input"):
        write_bundle(parts["int8"], [engine], output=output)
    assert output.read_bytes() == before


def test_a_bundle_does_not_replace_other_files(parts, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "empty.dkb").touch()
    np.savez(tmp_path / "images.npz", images=np.zeros(3))  # a ZIP archive, too
    for name in ("notes.txt", "empty.dkb", "images.npz"):
        before = (tmp_path / name).read_bytes()
        with refuses("file-exists") as caught:
            write_bundle(parts["int8"], output=tmp_path / name)
        assert "-o" in caught.value.fix
        assert (tmp_path / name).read_bytes() == before


def test_a_bundle_replaces_another_bundle_even_if_it_is_damaged(parts, tmp_path):
    there = write_bundle(parts["fp32"], output=tmp_path / "b.dkb").path
    write_bundle(parts["int8"], output=there)
    assert Bundle(there).contents.precision == "int8"
    there.write_bytes(there.read_bytes()[:-100])
    write_bundle(parts["fp32"], output=there)
    assert Bundle(there).contents.precision == "fp16"


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("int8", [], "when it is loaded, INT8 is built\n"),
        ("fp32", [], "when it is loaded, FP16 is built, FP32 on a CPU\n"),
        ("fp32", ["--fp32"], "when it is loaded, FP32 is built\n"),
    ],
)
def test_the_command_says_what_is_built(run, parts, model, options, says):
    made = run("bundle", str(parts[model]), *options, "-o", "b.dkb")
    assert (made.status, made.err) == (0, "")
    assert made.out.endswith(f"  {says}")


def test_the_command_says_what_is_built_if_no_plan_runs(run, parts):
    made = run("bundle", str(parts["int8"]), str(parts["int8 engine"]), "-o", "b.dkb")
    assert "INT8 model and 1 plan\n  where no plan runs, INT8 is built\n" in made.out
