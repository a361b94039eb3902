"""Layer times of real runs."""

from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refuses

from deploykit.bench.layers.gpu_roofline import look_up_gpu_roofline
from deploykit.bench.layers.layer_time import NO_BLOCK, LayerTime, sum_by_block, sum_by_kind
from deploykit.bench.layers.roofline import Roofline, measure_cpu_roofline
from deploykit.bench.layers.time_layers import time_layers
from deploykit.engine.build import build_engine
from deploykit.engine.manifest import read_engine_manifest


@pytest.fixture(scope="module")
def engine(random_b0, tmp_path_factory) -> Path:
    return build_engine(onnx=random_b0.path, gpu="cpu", output=tmp_path_factory.mktemp("e") / "e.onnx").path


@pytest.fixture(scope="module")
def layers(engine):
    return time_layers(engine, threads=1)


def test_every_layer_of_the_audit_is_timed_with_its_work(engine, layers):
    audit = read_engine_manifest(engine).audit
    assert {layer.name for layer in layers} == {layer.name for layer in audit.layers}
    assert sum(layer.macs for layer in layers) == sum(layer.macs for layer in audit.layers)
    assert all(layer.ms >= 0 and layer.bound_ms > 0 and layer.size_bytes > 0 for layer in layers)
    assert sum(layer.ms for layer in layers) > 0


def test_layers_are_summed_by_block_in_network_order(layers):
    blocks = [block.name for block in sum_by_block(layers) if block.name != NO_BLOCK]
    # B0's seven stages of 1, 2, 2, 3, 3, 4 and 1 blocks (Table 1 of arXiv:1905.11946).
    members = [
        f"blocks.{stage}.{at}" for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for at in range(count)
    ]
    assert blocks == ["conv_stem", *members, "conv_head", "global_pool", "classifier"]


def test_sums_include_all_layers(layers):
    for rows in (sum_by_block(layers), sum_by_kind(layers)):
        assert sum(row.ms for row in rows) == pytest.approx(sum(layer.ms for layer in layers))
        assert sum(row.macs for row in rows) == sum(layer.macs for layer in layers)
    times = [kind.ms for kind in sum_by_kind(layers)]
    assert times == sorted(times, reverse=True)
    assert sum_by_kind(layers)[0].name == "Conv"


def test_packed_weights_count_as_moved_bytes(layers):
    (classifier,) = [layer for layer in layers if layer.block == "classifier" and layer.macs]
    assert classifier.size_bytes == pytest.approx(4 * 1280 * 1000, rel=0.01)


def test_work_and_bytes_are_those_of_the_whole_batch(engine, layers):
    eight = time_layers(engine, batch=8, threads=1)
    assert sum(layer.macs for layer in eight) == 8 * sum(layer.macs for layer in layers)
    assert sum(layer.ms for layer in eight) > 2 * sum(layer.ms for layer in layers)


def test_int8_layers_use_the_integer_peak(random_b0, tmp_path):
    built = build_engine(onnx=random_b0.path, precision="int8", gpu="cpu", output=tmp_path / "e.onnx")
    found = time_layers(built.path, threads=1)
    assert sum(layer.precision == "int8" for layer in found) == 33


def test_a_bound_is_the_longer_of_computing_and_moving():
    roofline = Roofline(macs_per_s={"fp32": 1e9, "int8": 4e9}, bytes_per_s=((1000, 1e9), (100_000, 1e8)))
    assert roofline.bound_ms(macs=10**6, size_bytes=1000, precision="fp32") == pytest.approx(1.0)
    assert roofline.bound_ms(macs=10**6, size_bytes=1000, precision="int8") == pytest.approx(0.25)
    assert roofline.bound_ms(macs=0, size_bytes=1000, precision=None) == pytest.approx(0.001)
    assert roofline.bound_ms(macs=10**6, size_bytes=10**6, precision="int8") == pytest.approx(10.0)


def test_unknown_work_or_bytes_have_no_bound():
    roofline = Roofline(macs_per_s={"fp32": 1e9}, bytes_per_s=((1000, 1e9),))
    assert roofline.bound_ms(macs=10, size_bytes=None, precision="fp32") is None
    assert roofline.bound_ms(macs=10, size_bytes=1000, precision="int8") is None
    assert roofline.bound_ms(macs=0, size_bytes=1000, precision="int8") == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("gpu", "precisions"),
    [
        ("Tesla T4", {"fp32", "fp16", "int8"}),
        ("NVIDIA A10", {"fp16", "int8"}),  # whose tensor cores have TF32
        ("Tesla P4", {"fp32", "int8"}),  # which has none
    ],
)
def test_a_datasheet_bounds_only_the_precisions_it_lists(gpu, precisions):
    found = look_up_gpu_roofline(gpu)
    assert found is not None
    assert found.macs_per_s.keys() == precisions


@pytest.mark.parametrize("gpu", ["Stub", "NVIDIA GeForce RTX 2080 Ti"])  # none; one without bandwidth
def test_a_gpu_without_a_datasheet_has_no_roofline(gpu):
    assert look_up_gpu_roofline(gpu) is None


def test_the_roofline_of_this_cpu_is_measured():
    found = measure_cpu_roofline(1)
    assert found.macs_per_s["int8"] > 0
    assert found.macs_per_s["fp32"] > 1e8
    assert min(rate for _, rate in found.bytes_per_s) > 1e7


def test_layers_of_a_batch_outside_the_range_are_refused(engine):
    with refuses("batch-out-of-range"):
        time_layers(engine, batch=65)


def test_layers_of_an_engine_for_a_missing_gpu_are_refused(random_b0, tmp_path):
    built = build_engine(onnx=random_b0.path, gpu="T4", output=tmp_path / "e.engine")
    with refuses("engine-cannot-run"):
        time_layers(built.path)


def test_layers_and_scenarios_exclude_each_other(run, engine):
    for option in (("--scenario", "offline"), ("--scope", "device"), ("--max-latency", "1ms")):
        refused = run("bench", str(engine), "--layers", *option)
        assert (refused.status, refused.out) == (2, "")
        assert refused.code == "option-not-applicable"


def test_layers_are_printed_from_the_command_line(run, engine):
    shown = run("bench", str(engine), "--layers", "--threads", "1")
    assert shown.status == 0
    for part in ("blocks.6.0", "kind of kernel", "slowest 10 layers", "time / bound"):
        assert part in shown.out


def test_unknown_values_are_printed_as_blanks(run, engine, monkeypatch):
    known = LayerTime(
        name="k",
        kind="gemm",
        block="b",
        node=None,
        precision="fp16",
        ms=2.0,
        macs=10**6,
        size_bytes=10**6,
        bound_ms=0.5,
    )
    unknown = replace(known, name="u", kind="kgen", block=NO_BLOCK, size_bytes=None, bound_ms=None)
    monkeypatch.setattr("deploykit.bench.layers.layer_profile.time_layers", lambda *_, **__: [known, unknown])
    lines = run("bench", str(engine), "--layers").out.splitlines()
    rows = [line.split() for line in lines]
    assert ["k", "2.000", "ms", "50.0", "%", "1.0", "M", "1.00", "MB", "0.500", "ms", "4.0"] in rows
    assert ["u", "2.000", "ms", "50.0", "%", "1.0", "M"] in rows
