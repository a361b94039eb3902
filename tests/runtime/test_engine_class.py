import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from refusals import refuses

from deploykit.engine.build import build_engine
from deploykit.engine.shapes import BatchRange, SideRange, parse_profiles
from deploykit.engine.targets import Target
from deploykit.networks.export import export_onnx
from deploykit.runtime import Engine
from deploykit.runtime.bundle.bundle import write_bundle
from deploykit.runtime.engine import require_cpu_target
from deploykit.util.errors import DeployError
from deploykit.util.local_gpu import local_gpu


@pytest.fixture(scope="module")
def built(random_b0, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("cpu") / "model.onnx"
    return build_engine(
        onnx=random_b0.path, gpu="cpu", batches=[BatchRange(min=1, opt=2, max=4)], output=output
    ).path


def images(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 64, 64), np.float32)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_an_engine_matches_onnx_runtime_bit_for_bit(built, random_b0, count):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(random_b0.path), options, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"input": images(count)})
    with Engine.load(built, threads=1) as engine:
        logits = engine(images(count))
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, expected)


def test_an_image_gives_the_same_result_alone_and_in_a_batch(built):
    with Engine.load(built) as engine:
        together, alone = engine(images(4)), engine(images(4)[2:3])
    np.testing.assert_allclose(together[2:3], alone, atol=1e-5 * np.abs(alone).max())


def test_images_need_not_be_contiguous(built):
    pixels_last = np.ascontiguousarray(images(2).transpose(0, 2, 3, 1))
    with Engine.load(built) as engine:
        np.testing.assert_array_equal(engine(pixels_last.transpose(0, 3, 1, 2)), engine(images(2)))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 3, 32, 32), np.float32),
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((3, 64, 64), np.float32),
        np.zeros((1, 3, 64, 64), np.float64),
        np.zeros((1, 3, 64, 64), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_wrong_images_are_refused_with_what_the_engine_takes(built, wrong):
    with Engine.load(built) as engine, refuses("input-shape-mismatch") as caught:
        engine(wrong)
    assert "float32 (n, 3, 64, 64), n of 1 to 4" in caught.value.problem
    assert f"not {wrong.dtype} {wrong.shape}" in caught.value.problem


@pytest.mark.parametrize("count", [0, 5])
def test_a_batch_out_of_range_is_refused_with_the_range(built, count):
    with Engine.load(built) as engine, refuses("batch-out-of-range") as caught:
        engine(images(count))
    assert f"1 to 4 images, not {count}" in caught.value.problem


def test_every_side_in_the_range_matches_a_model_of_that_side(random_b0, tmp_path):
    """Random weights with the same seed are equal for all sides."""
    models = {
        side_px: export_onnx(0, side_px=side_px, output=tmp_path / f"{side_px}.onnx").path
        for side_px in (48, 80)
    } | {64: random_b0.path}
    built = build_engine(
        onnx=models[64], gpu="cpu", side=SideRange(min=48, opt=64, max=80), output=tmp_path / "e.onnx"
    )
    assert built.manifest.input_summary == "float32 (n, 3, side, side), n of 1 to 64, side of 48 to 80 px"
    with Engine.load(built.path) as engine:
        for side_px, model in models.items():
            batch = np.random.default_rng(side_px).standard_normal((2, 3, side_px, side_px), np.float32)
            session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
            (expected,) = session.run(None, {"input": batch})
            np.testing.assert_allclose(engine(batch), expected, atol=1e-5 * np.abs(expected).max())
        for shape in ((1, 3, 96, 96), (1, 3, 32, 32), (1, 3, 64, 48), (1, 1, 64, 64)):
            with refuses("input-shape-mismatch") as caught:
                engine(np.zeros(shape, np.float32))
            assert "48 to 80 px" in caught.value.problem


def test_int8_on_the_cpu_needs_a_single_side(random_b0, tmp_path):
    with refuses("dynamic-side-unsupported"):
        build_engine(
            onnx=random_b0.path,
            precision="int8",
            gpu="cpu",
            side=SideRange(min=48, opt=64, max=80),
            output=tmp_path / "e.onnx",
        )
    assert not list(tmp_path.iterdir())


def test_a_side_range_without_the_models_side_is_refused(random_b0, tmp_path):
    """The engine would not take images that are prepared as its manifest says."""
    side = SideRange(min=80, opt=80, max=96)
    with refuses("dynamic-side-unsupported") as caught:
        build_engine(onnx=random_b0.path, gpu="cpu", side=side, output=tmp_path / "e.onnx")
    assert "--side" in caught.value.fix
    with refuses("dynamic-side-unsupported"):
        write_bundle(random_b0.path, output=tmp_path / "b.dkb", side=side)
    assert not list(tmp_path.iterdir())


def test_a_batch_size_between_the_profiles_is_refused(random_b0, tmp_path):
    built = build_engine(
        onnx=random_b0.path, gpu="cpu", batches=parse_profiles("1;3"), output=tmp_path / "e.onnx"
    )
    with Engine.load(built.path) as engine:
        for count in (1, 3):
            assert engine(images(count)).shape == (count, 1000)
        with refuses("batch-out-of-range") as caught:
            engine(images(2))
        assert "1 or 3 images, not 2" in caught.value.problem


def test_a_closed_engine_refuses_calls_and_can_be_closed_again(built):
    with Engine.load(built) as engine:
        engine(images(1))
    engine.close()
    with refuses("engine-closed") as caught:
        engine(images(1))
    assert "with" in caught.value.fix


def test_closing_waits_for_running_calls(built):
    """Threads that keep calling get results, then the error that it is closed, and nothing else."""
    engine = Engine.load(built, threads=1)

    def call(_: int) -> str:
        for _ in range(1000):
            try:
                assert engine(images(4)).shape == (4, 1000)
            except DeployError as error:
                return error.code
        return "never closed"

    with ThreadPoolExecutor(4) as pool:
        ends = [pool.submit(call, at) for at in range(4)]
        time.sleep(0.2)
        engine.close()
    assert [end.result() for end in ends] == ["engine-closed"] * 4


def test_an_engine_is_closed_when_its_with_block_fails(built):
    with pytest.raises(RuntimeError, match="on purpose"), Engine.load(built) as engine:
        raise RuntimeError("on purpose")
    with refuses("engine-closed"):
        engine(images(1))


def test_many_threads_get_the_same_results_as_one(built):
    batches = [images(1, seed=seed) for seed in range(200)]
    with Engine.load(built, threads=1) as engine:
        expected = [engine(batch) for batch in batches]
        with ThreadPoolExecutor(8) as pool:
            outputs = list(pool.map(engine, batches))
    np.testing.assert_array_equal(outputs, expected)


def test_two_engines_work_side_by_side(built):
    with Engine.load(built, threads=1) as first, Engine.load(str(built), threads=1) as second:
        first.close()
        assert second(images(1)).shape == (1, 1000)


def test_a_modified_engine_is_not_loaded(built, tmp_path):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(built.read_bytes()[:-1])
    copy.with_name("copy.onnx.json").write_bytes(built.with_name("model.onnx.json").read_bytes())
    with refuses("engine-damaged"):
        Engine.load(copy)


def test_a_loaded_engine_has_its_manifest(built):
    with Engine.load(built) as engine:
        assert engine.manifest.input.shape == (3, 64, 64)
        assert engine.manifest.output.shape == (1000,)
        assert engine.manifest.model.preprocessing.side_px == 64


@pytest.mark.skipif(local_gpu() is not None, reason="the GPU of this machine may run it")
@pytest.mark.parametrize(("gpu", "title"), [("T4", r"T4 \(SM75\)"), (None, "GPUs of SM80")])
def test_an_engine_for_a_gpu_is_refused_on_a_machine_without_one(random_b0, tmp_path, gpu, title):
    engine = build_engine(onnx=random_b0.path, gpu=gpu, output=tmp_path / "model.engine").path
    with pytest.raises(DeployError, match=rf"is for {title}.*no NVIDIA GPU") as caught:
        Engine.load(engine)
    assert "--gpu cpu" in caught.value.fix


def test_cpu_threads_are_refused_for_a_gpu_engine():
    with refuses("option-not-applicable"):
        require_cpu_target(Target(name="T4", compiler="tensorrt-rtx", sm=75), 2)
    require_cpu_target(Target(name="CPU", compiler="onnxruntime"), 2)
