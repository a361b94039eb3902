"""Layer times of GPU engines, from a stub of TensorRT's profiler; see test_gpu_runner.py."""

from dataclasses import replace

import pytest
from cuda_stub import driver
from cuda_stub.driver import count
from cuda_stub.loaded import MANIFEST, loaded, over_the_stub, whole_numbers
from refusals import refuses

from deploykit.bench.layers.gpu import time_gpu_layers
from deploykit.bench.layers.layer_time import (
    MEASURED_RUNS,
    NO_BLOCK,
    WARM_UP_RUNS,
    LayerTime,
    sum_by_block,
    sum_by_kind,
)
from deploykit.engine.audit.audit import Audit, CompiledLayer, Traffic
from deploykit.util.local_gpu import LocalGpu

pytestmark = pytest.mark.usefixtures("cuda_stub")

STEM = CompiledLayer(
    name="__myl_CorrSilu_myl0_1",
    kind="runtime_fusion",
    nodes=("conv_stem", "conv_stem.silu"),
    products=1,
    macs=10_000_000,
    precision="fp16",
    traffic=Traffic(fixed_bytes=2000, image_bytes=1_000_000),
)
EXPAND = replace(STEM, name="expand", kind="gemm", nodes=("blocks.1.0.conv_pw",), precision="int8")
SCALE = CompiledLayer(name="__myl_Mul_myl0_2", kind="kgen", nodes=("blocks.1.0.se.scale",))


def times(execution: int) -> list[tuple[str, float]]:
    """Return layer times: long during warm-up, then rising around these; the stem has two parts."""
    longer = 100 if execution < WARM_UP_RUNS else (execution - WARM_UP_RUNS + 1) / ((MEASURED_RUNS + 1) / 2)
    parts = ((STEM.name, 0.1), (EXPAND.name, 0.3), (SCALE.name, 0.05), (STEM.name, 0.1), ("copy", 0.02))
    return [(name, ms * longer) for name, ms in parts]


def timed(*layers: CompiledLayer, gpu: str | None = "Tesla T4") -> list[LayerTime]:
    """Time batches of eight on a GPU with this name; None for the name of the stub."""
    manifest = replace(MANIFEST, audit=Audit(source="builder log", layers=layers))
    with loaded(manifest) as engine, pytest.MonkeyPatch.context() as patch:
        if gpu is not None:
            patch.setattr("deploykit.bench.layers.gpu.local_gpu", lambda: LocalGpu(name=gpu, sm=75))
        engine.trt.layers = times
        return time_gpu_layers(engine.engine, batch=8)


@pytest.mark.parametrize("cuda_graphs", [True, False])
@over_the_stub
def test_layer_times_are_returned_in_execution_order(cuda_graphs):
    with loaded(cuda_graphs=cuda_graphs) as engine:
        engine.trt.layers = lambda execution: [("b", 0.25 + execution), ("a", 0.5), ("b", 1.0)]
        with engine.engine.profile_layers(whole_numbers(8)) as call:
            before = count("executions"), count("launches")
            told = [list(call.layers_ms().items()) for _ in range(3)]
            assert count("executions") == before[0] + 3
            assert count("launches") == before[1] + (3 if cuda_graphs else 0)
        assert told == [[("b", 1.25 + execution), ("a", 0.5)] for execution in range(3)]


@over_the_stub
def test_a_profiler_does_not_slow_other_calls_down():
    with loaded() as engine:
        engine.trt.layers = lambda execution: [("a", 0.5)]
        engine.check(whole_numbers(8))
        before = driver.alive()
        with engine.engine.profile_layers(whole_numbers(8)) as call:
            call.layers_ms()
            engine.check(whole_numbers(8, seed=1))
            assert count("contexts") == before["contexts"] + 1
        assert driver.alive() == before  # its context is gone, and never runs another call
        engine.check(whole_numbers(8, seed=2))


@over_the_stub
def test_if_graphs_have_no_layer_times_the_fix_is_to_disable_them():
    with loaded() as engine:
        engine.trt.layers = lambda execution: [("a", 0.5)]
        engine.trt.profiles_graphs = False
        with (
            engine.engine.profile_layers(whole_numbers(8)) as call,
            refuses("layer-times-unavailable") as caught,
        ):
            call.layers_ms()
        assert "--no-cuda-graph" in caught.value.fix
        engine.trt.is_capturable = False
        with engine.engine.profile_layers(whole_numbers(8)) as call:
            assert call.layers_ms() == {"a": 0.5}


@over_the_stub
def test_a_profiler_without_layer_times_is_an_error():
    with (
        loaded(cuda_graphs=False) as engine,
        engine.engine.profile_layers(whole_numbers(8)) as call,
        refuses("layer-times-unavailable"),
    ):
        call.layers_ms()


@over_the_stub
def test_layers_have_the_blocks_work_and_bytes_of_the_audit():
    layers = timed(STEM, EXPAND, SCALE)
    stem, _, scale, copy = layers
    assert [layer.name for layer in layers] == [STEM.name, EXPAND.name, SCALE.name, "copy"]
    assert [layer.ms for layer in layers] == pytest.approx([0.2, 0.3, 0.05, 0.02])
    assert [layer.block for layer in layers] == ["conv_stem", "blocks.1.0", "blocks.1.0", NO_BLOCK]
    assert [layer.kind for layer in layers] == ["runtime_fusion", "gemm", "kgen", ""]
    assert (stem.macs, stem.size_bytes, stem.precision) == (80_000_000, 8_002_000, "fp16")
    for layer in (scale, copy):  # of which the compiler, and the audit, tell nothing
        assert (layer.macs, layer.size_bytes, layer.bound_ms) == (0, None, None)
    assert sum_by_kind(layers)[0].name == "gemm"
    block = sum_by_block(layers)[1]
    assert (block.name, block.ms, block.size_bytes) == ("blocks.1.0", pytest.approx(0.35), None)


@over_the_stub
def test_bounds_come_from_the_gpus_datasheet():
    """A T4 has 65e12 operations per second in FP16, twice as many in INT8, and 320e9 bytes per second."""
    stem, expand, *_ = timed(STEM, EXPAND)
    assert stem.bound_ms == expand.bound_ms == pytest.approx(1000 * 8_002_000 / 320e9)
    stem, expand, *_ = timed(replace(STEM, macs=10**9), replace(EXPAND, macs=10**9))
    assert stem.bound_ms == pytest.approx(1000 * 8e9 / (65e12 / 2))
    assert expand.bound_ms == pytest.approx(1000 * 8e9 / (130e12 / 2))


@over_the_stub
def test_a_gpu_without_a_known_datasheet_has_no_bounds():
    layers = timed(STEM, EXPAND, gpu=None)
    assert layers[0].size_bytes == 8_002_000
    assert [layer.bound_ms for layer in layers] == [None] * 4


@over_the_stub
def test_runs_are_counted_after_warm_up():
    with loaded() as engine:
        executions = []
        engine.trt.layers = lambda execution: executions.append(execution) or times(execution)
        time_gpu_layers(engine.engine, batch=1)
    assert executions == list(range(WARM_UP_RUNS + MEASURED_RUNS))
