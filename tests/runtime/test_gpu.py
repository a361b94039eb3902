"""Engines load, run and give correct outputs on a machine with an NVIDIA GPU."""

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from refusals import refuses

from deploykit.bench.benchmark import benchmark
from deploykit.bench.layers.time_layers import time_layers
from deploykit.bench.record import Scope
from deploykit.engine.build import BuiltEngine, build_engine
from deploykit.engine.shapes import BatchRange
from deploykit.engine.targets import AHEAD_OF_TIME_SMS, SMS_WITHOUT_INT8_CONVOLUTIONS, Target
from deploykit.onnx_tools.ort_session import cpu_session, has_cuda
from deploykit.quantize.calibration_files import calibrate_to_file
from deploykit.quantize.int8_options import Int8Options
from deploykit.quantize.placement import Policy
from deploykit.runtime import Engine
from deploykit.runtime.tensorrt.execution_context import MAX_CUDA_GRAPHS
from deploykit.stats.estimate import are_disjoint
from deploykit.util.local_gpu import local_gpu
from deploykit.util.types import Precision

GPU = local_gpu()
HERE = "no NVIDIA GPU here" if GPU is None else f"{GPU.name} (SM{GPU.sm})"
PORTABLE = Target(name="portable", compiler="tensorrt-rtx")
SM = GPU.sm if GPU is not None else None

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(GPU is None, reason=HERE)]
needs_target = pytest.mark.skipif(
    GPU is not None and GPU.sm not in AHEAD_OF_TIME_SMS, reason=f"TensorRT-RTX has no target for {HERE}"
)
needs_portable = pytest.mark.skipif(
    GPU is not None and not PORTABLE.runs_on(GPU), reason=f"the portable engine does not cover {HERE}"
)

# FP16 has 11 significant bits; INT8's noise on this model is 25 dB and better, which is a cosine of 0.998.
COSINE = {"fp16": 0.999, "int8": 0.99}


@pytest.fixture(scope="module")
def images(trained, validation) -> np.ndarray:
    return trained.info.preprocessing.normalize(validation.pixels[:32])


@pytest.fixture(scope="module")
def reference(trained, images) -> np.ndarray:
    """FP32 logits by ONNX Runtime on the CPU."""
    (logits,) = cpu_session(trained.path).run(None, {"input": images})
    return logits


@pytest.fixture(scope="module")
def ranges(shared, trained, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("ranges") / "trained.ranges.json"
    data = shared / "cifar10_calib.npz"
    return calibrate_to_file(data, onnx=trained.path, limit=256, method="percentile", output=output)[0]


@pytest.fixture(scope="module")
def build(trained, ranges, tmp_path_factory):
    def built(precision: Precision, gpu: str | None, *, policy: Policy | None = None) -> BuiltEngine:
        return build_engine(
            onnx=trained.path,
            precision=precision,
            gpu=gpu,
            batches=[BatchRange(min=1, opt=8, max=32)],
            int8=Int8Options(ranges=ranges, policy=policy) if precision == "int8" else None,
            output=tmp_path_factory.mktemp("gpu") / f"model.{precision}.engine",
        )

    return built


@pytest.fixture(scope="module")
def fp16(build: Callable[..., BuiltEngine]) -> BuiltEngine:
    return build("fp16", "local")


def on_the_gpu(library: str, images: np.ndarray) -> tuple[Any, Callable[[Any], np.ndarray]]:
    """Return the images as an array of a library on the GPU, and a function that copies its arrays back."""
    module = pytest.importorskip(library)
    if library == "cupy":
        return module.asarray(images), module.asnumpy
    if not module.cuda.is_available():
        pytest.skip("this torch is built for the CPU")
    return module.from_numpy(images).cuda(), lambda array: array.cpu().numpy()


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Return the cosine of the least similar pair of rows."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / norms).min())


@needs_target
@pytest.mark.parametrize("precision", COSINE)
def test_an_engine_on_the_gpu_matches_onnx_runtime_on_the_cpu(build, images, reference, precision):
    with Engine.load(build(precision, "local").path) as engine:
        logits = engine(images)
    assert logits.shape == reference.shape
    assert np.isfinite(logits).all()
    assert cosine(logits, reference) >= COSINE[precision]


needs_cuda_provider = pytest.mark.skipif(not has_cuda(), reason="this ONNX Runtime is for CPUs")


@pytest.fixture(scope="module")
def by_onnxruntime(trained, tmp_path_factory) -> BuiltEngine:
    output = tmp_path_factory.mktemp("gpu") / "model.fp16.onnx"
    return build_engine(onnx=trained.path, gpu="local", compiler="onnxruntime", output=output)


@needs_cuda_provider
def test_onnx_runtime_on_the_gpu_matches_the_cpu(by_onnxruntime, images, reference):
    audit = by_onnxruntime.manifest.audit
    assert audit.missing_products == audit.product_count("fp32") == 0
    assert audit.product_count("fp16") > 0
    with Engine.load(by_onnxruntime.path) as engine:
        assert cosine(engine(images), reference) >= COSINE["fp16"]


@needs_cuda_provider
@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_onnx_runtime_returns_arrays_on_the_gpu_for_images_on_the_gpu(by_onnxruntime, images, library):
    there, back = on_the_gpu(library, images)
    with Engine.load(by_onnxruntime.path) as engine:
        np.testing.assert_array_equal(back(engine(there)), engine(images))


@needs_target
@pytest.mark.skipif(SM in SMS_WITHOUT_INT8_CONVOLUTIONS, reason=f"no INT8 convolutions on {HERE}")
@pytest.mark.parametrize("policy", ["bandwidth", "all-conv"])
def test_the_other_policies_match_onnx_runtime(build, images, reference, policy):
    """ONNX Runtime gives cosines of 0.995 and 0.996 for the same graphs."""
    with Engine.load(build("int8", "local", policy=policy).path) as engine:
        assert cosine(engine(images), reference) >= 0.97


@needs_portable
@pytest.mark.parametrize("precision", COSINE)
def test_the_portable_engine_matches_onnx_runtime(monkeypatch, build, images, reference, precision):
    monkeypatch.setattr("deploykit.engine.targets.local_gpu", lambda: None)  # to build as without a GPU
    built = build(precision, None)
    monkeypatch.undo()
    assert built.manifest.target.name == "portable"
    with Engine.load(built.path) as engine:
        assert cosine(engine(images), reference) >= COSINE[precision]


@needs_target
@pytest.mark.parametrize("count", [1, 3, 32])
def test_every_batch_size_in_the_range_works(fp16, images, reference, count):
    with Engine.load(fp16.path) as engine:
        assert cosine(engine(images[:count]), reference[:count]) >= COSINE["fp16"]


@needs_target
def test_changing_batch_sizes_do_not_disturb_each_other(fp16, images, reference):
    with Engine.load(fp16.path) as engine:
        for start, stop in ((0, 32), (32 - 1, 32), (0, 8), (4, 20), (7, 8)):
            assert cosine(engine(images[start:stop]), reference[start:stop]) >= COSINE["fp16"]


@needs_target
def test_an_output_stays_valid_after_the_next_call_and_after_closing(fp16, images, reference):
    with Engine.load(fp16.path) as engine:
        first = engine(images[:4])
        engine(images[4:8])
    assert cosine(first, reference[:4]) >= COSINE["fp16"]


@needs_target
def test_the_same_images_give_the_same_output(fp16, images):
    with Engine.load(fp16.path) as engine:
        np.testing.assert_array_equal(engine(images), engine(images))


@needs_target
def test_an_engine_can_be_loaded_and_closed_repeatedly(fp16, images):
    answers = []
    for _ in range(2):
        with Engine.load(fp16.path) as engine:
            answers.append(engine(images[:2]))
        engine.close()
        with refuses("engine-closed"):
            engine(images[:2])
    np.testing.assert_array_equal(*answers)


@needs_target
def test_two_engines_run_side_by_side(fp16, images, reference):
    with Engine.load(fp16.path) as first, Engine.load(fp16.path) as second:
        answers = [engine(images[:4]) for engine in (first, second, first)]
    assert min(cosine(answer, reference[:4]) for answer in answers) >= COSINE["fp16"]


@needs_target
def test_a_benchmark_names_the_gpu_and_keeps_every_sample(fp16):
    record = benchmark(fp16.path, batch=8, seconds=0.5)
    assert (record.machine.kind, record.machine.name) == ("gpu", HERE)
    assert (record.method.threads, record.method.cuda_graph) == (None, True)
    assert len(record.latency_ms) >= 100
    assert record.percentile_ms(50).value <= record.percentile_ms(99).value
    if importlib.util.find_spec("pynvml"):
        assert record.machine.driver
        assert record.before.gpu is not None
        assert record.before.gpu.sm_mhz > 0


@needs_target
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_device_and_host_time_are_shorter_than_a_call(fp16, cuda_graphs):
    whole, device, host = (
        benchmark(fp16.path, batch=32, scope=scope, seconds=1, cuda_graphs=cuda_graphs)
        for scope in get_args(Scope)
    )
    assert (whole.method.scope, device.method.scope, host.method.scope) == get_args(Scope)
    assert device.percentile_ms(50).value <= whole.percentile_ms(50).value
    assert host.percentile_ms(50).value <= whole.percentile_ms(50).value
    assert device.method.cuda_graph is host.method.cuda_graph is cuda_graphs


@needs_target
def test_launching_a_graph_takes_less_host_time_than_launching_each_kernel(fp16):
    graph, kernels = (
        benchmark(fp16.path, batch=1, scope="host", seconds=1, cuda_graphs=each) for each in (True, False)
    )
    whole = (graph.percentile_ms(50), kernels.percentile_ms(50))
    assert are_disjoint(*whole)
    assert whole[0].value < whole[1].value


@needs_target
@pytest.mark.parametrize("precision", COSINE)
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_layer_times_add_up_to_the_device_time(build, precision, cuda_graphs):
    """Events between layers take time themselves; without graphs the GPU also waits for launches."""
    built = build(precision, "local")
    layers = time_layers(built.path, batch=32, cuda_graphs=cuda_graphs)
    record = benchmark(built.path, batch=32, scope="device", seconds=1, cuda_graphs=cuda_graphs)
    device_ms = record.percentile_ms(50).value
    assert 0.5 * device_ms <= sum(layer.ms for layer in layers) <= 3 * device_ms
    # The profiler calls layers as the builder's log does, whose work the audit knows.
    audited = sum(layer.macs for layer in built.manifest.audit.profiles[0].layers)
    assert sum(layer.macs for layer in layers) >= 0.9 * 32 * audited


@needs_target
def test_two_calls_in_flight_have_a_higher_throughput(fp16):
    one, two = (benchmark(fp16.path, batch=32, scenario=each) for each in ("single-stream", "offline"))
    assert two.method.in_flight == 2
    slower, faster = one.images_per_s, two.images_per_s
    assert faster.value > slower.value or not are_disjoint(slower, faster)


@needs_target
def test_an_engine_for_another_gpu_is_refused(build):
    other = "T4" if SM != 75 else "RTX 4090"
    with refuses("engine-cannot-run"):
        Engine.load(build("fp16", other).path)


@needs_target
def test_cuda_graphs_do_not_change_the_output(fp16, images):
    with Engine.load(fp16.path) as graphs, Engine.load(fp16.path, cuda_graphs=False) as launches:
        for count in (1, 8, 3, 8, 1):
            np.testing.assert_array_equal(graphs(images[:count]), launches(images[:count]))


@needs_target
def test_more_shapes_than_cached_graphs_give_correct_outputs(fp16, images, reference):
    with Engine.load(fp16.path) as engine:
        for count in (*range(1, MAX_CUDA_GRAPHS + 4), 1, 2):
            assert cosine(engine(images[:count]), reference[:count]) >= COSINE["fp16"]


@needs_target
def test_many_threads_get_the_same_results_as_one(fp16, images):
    batches = [images[at % 24 : at % 24 + 1 + at % 8] for at in range(1000)]
    with Engine.load(fp16.path) as engine:
        expected = [engine(batch) for batch in batches]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(engine, batches))
    for answer, other in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(answer, other)


@needs_target
@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_images_on_the_gpu_give_outputs_on_the_gpu(fp16, images, library):
    there, back = on_the_gpu(library, images)
    with Engine.load(fp16.path) as engine:
        expected = engine(images)
        answer = engine(there)
        assert type(answer).__module__.partition(".")[0] == library
        np.testing.assert_array_equal(back(answer), expected)


@needs_target
def test_a_result_submitted_on_a_stream_is_ready_with_the_stream(fp16, images):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch is built for the CPU")
    stream = torch.cuda.Stream()
    with Engine.load(fp16.path) as engine:
        with torch.cuda.stream(stream):
            there = torch.from_numpy(images).cuda(non_blocking=True)
            answer = engine.submit(there, stream=stream.cuda_stream).result()
        stream.synchronize()
        np.testing.assert_array_equal(answer.cpu().numpy(), engine(images))


@needs_target
def test_memory_stays_flat_over_ten_thousand_calls(fp16, images):
    """Compare free device memory, MiB, after the first hundred calls and after the last."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch is built for the CPU")
    with Engine.load(fp16.path) as engine:
        free = []
        for at in range(10_000):
            engine(images[: 1 + at % 4])
            if at in (100, 9_999):
                free.append(torch.cuda.mem_get_info()[0] / 2**20)
    assert free[1] >= free[0] - 1
