import csv
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import records
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from refusals import refuses

from deploykit.bench.record_file import write_record
from deploykit.gpu_catalog.gpus import find_gpu, known_gpus
from deploykit.networks.families.efficientnet import efficientnet
from deploykit.networks.families.registry import find_family
from deploykit.networks.families.resnet import resnet
from deploykit.networks.scaling import BASE, Scale, scale_for
from deploykit.planning.cost_model.cost_model import compute_batch_ms, predict_latency
from deploykit.planning.cost_model.fitted_model import load_fitted_model
from deploykit.planning.cost_model.kernels import Kernel
from deploykit.planning.cost_model.rates import Rates

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # scripts, not a package

import fit_cost_model
from cost_model import errors, fit, page, published, recorded

ROWS = fit_cost_model.read_all_rows()
T4, V100, A100 = find_gpu("T4"), find_gpu("V100"), find_gpu("A100 80GB")
B0, B4 = efficientnet(scale_for(0)), efficientnet(scale_for(4))

gpus = st.sampled_from([T4, V100, A100, find_gpu("L4"), find_gpu("H100"), find_gpu("RTX 4090")])
precisions = st.sampled_from(["fp32", "fp16", "int8"])
batches = st.integers(1, 256)
GPUS_PUBLISHED = sorted({row.gpu for row in published.keep_tensorrt(ROWS)})
NUMBER = re.compile(r"(?<![\w#.])(-?\d+(?:\.\d+)?)(?![\w.])")  # of an SVG, outside of names
few = settings(max_examples=40, deadline=None)


def latency_ms(network, gpu, precision="fp16", batch=1):
    return predict_latency(network, gpu, precision=precision, batch=batch).latency_ms


@pytest.fixture(scope="module")
def fits():
    return page.fit_all(ROWS)


@pytest.fixture(scope="module")
def left_out(fits):
    """Every published latency with its error under a fit without its GPU."""
    return fits.without_gpu


@few
@given(gpu=gpus, precision=precisions, batch=batches)
def test_a_larger_batch_never_takes_less_time(gpu, precision, batch):
    assert latency_ms(B0, gpu, precision, batch) < latency_ms(B0, gpu, precision, batch + 1)


@few
@given(gpu=gpus, precision=precisions, batch=batches, phis=st.tuples(st.floats(0, 7), st.floats(0, 7)))
def test_a_larger_phi_never_takes_less_time(gpu, precision, batch, phis):
    small, large = (efficientnet(scale_for(phi)) for phi in sorted(phis))
    assert latency_ms(small, gpu, precision, batch) <= latency_ms(large, gpu, precision, batch)


@few
@given(gpu=gpus, precision=precisions, batch=batches, side_px=st.integers(32, 512), more=st.integers(1, 99))
def test_a_larger_image_never_takes_less_time(gpu, precision, batch, side_px, more):
    small, large = (
        resnet(18, replace(BASE, side_px=side_px)),
        resnet(18, replace(BASE, side_px=side_px + more)),
    )
    assert latency_ms(small, gpu, precision, batch) <= latency_ms(large, gpu, precision, batch)


@few
@given(
    gpu=gpus,
    precision=precisions,
    batch=batches,
    factor=st.floats(1, 10),
    fact=st.sampled_from(
        ["memory_bandwidth_gb_s", "fp32_tflops", "fp16_tensor_tflops", "int8_tensor_tops", "tdp_w"]
    ),
)
def test_a_better_gpu_never_takes_more_time(gpu, precision, batch, factor, fact):
    assume(getattr(gpu, fact) is not None)  # a V100 has no INT8 tensor cores to improve
    improved = replace(gpu, **{fact: getattr(gpu, fact) * factor})
    assert latency_ms(B0, improved, precision, batch) <= latency_ms(B0, gpu, precision, batch)


@few
@given(phi=st.floats(0, 7), batch=batches)
def test_int8_is_faster_than_fp16_on_a_t4_but_not_on_a_v100(phi, batch):
    network = efficientnet(scale_for(phi))
    assert latency_ms(network, V100, "int8", batch) >= latency_ms(network, V100, "fp16", batch)
    assert latency_ms(network, T4, "int8", batch) < latency_ms(network, T4, "fp16", batch)


def test_a_kernel_takes_its_launch_plus_the_smooth_maximum_of_arithmetic_and_traffic():
    # 3 ms of arithmetic and 4 ms of traffic make 5 ms, by Pythagoras; twice, with 0.5 ms launches.
    kernel = Kernel(
        name="", kind="dense", macs=1500, read_elements=1000, written_elements=900, weight_elements=100
    )
    rates = Rates(
        matrix_flop_s=1e6,
        grouped_flop_s=1.0,
        depthwise_flop_s=1.0,
        bytes_s=1e6,
        element_bytes=2,
        channel_granule=1,
        launch_s=0.5e-3,
        busy_outputs=0.0,
        activation_share=1.0,
    )
    assert compute_batch_ms([(kernel, 2)], rates, 1) == pytest.approx(2 * (0.5 + 5.0))


def test_a_t4_is_limited_by_its_70_watts():
    published_ms = 30.08  # ResNet-50, FP16, batch 64: GENet, arXiv:2006.14090
    unlimited = replace(T4, sustained_mhz=None, tdp_w=300)
    assert latency_ms(resnet(50), T4, batch=64) == pytest.approx(published_ms, rel=0.2)
    assert latency_ms(resnet(50), unlimited, batch=64) < 0.85 * published_ms


def test_a_power_limit_slows_a_busy_gpu_and_a_power_mode_slows_any():
    """A T4 that processes one small image draws far less than its 70 W."""
    unlimited = replace(T4, sustained_mhz=None, tdp_w=300)
    by_limit = replace(unlimited, sustained_mhz=T4.boost_mhz / 2)
    by_mode = replace(unlimited, mode_mhz=T4.boost_mhz / 2)

    def slower(gpu, batch):
        network = resnet(50)
        return latency_ms(network, gpu, batch=batch) / latency_ms(network, unlimited, batch=batch)

    assert slower(by_limit, 1) < 1.2
    assert slower(by_mode, 1) > 1.3
    assert slower(by_limit, 64) > 1.3
    assert slower(by_limit, 64) == pytest.approx(slower(by_mode, 64), rel=0.05)


@pytest.mark.parametrize("gpu", GPUS_PUBLISHED)
def test_published_latencies_are_predicted_within_20_percent_on_average(gpu):
    rows = [row for row in ROWS if row.gpu == gpu]
    ratios = [
        latency_ms(published.build_network(row.family, row.network), find_gpu(gpu), row.precision, row.batch)
        / row.latency_ms
        for row in rows
    ]
    assert sum(abs(ratio - 1) for ratio in ratios) / len(ratios) < 0.2


@pytest.mark.parametrize("gpu", ["A100 SXM4 80GB", "V100 SXM2", "Jetson AGX Xavier"])
def test_efficientnets_are_predicted_within_20_percent_on_a_gpu_the_fit_never_saw(left_out, gpu):
    pairs = [(row, ratio) for row, ratio in left_out if row.gpu == gpu and row.family == "efficientnet"]
    assert len(pairs) >= 15
    assert errors.mean_absolute_error(pairs) < 0.2


def test_predictions_are_hardly_slower_than_pytorch_was():
    bounds = [row for row in ROWS if row.runtime == "pytorch"]
    ratios = np.exp(fit.log_ratios(bounds, load_fitted_model().parameters))
    assert len(ratios) == 76
    assert ratios.min() > 0.85


def test_the_ranking_of_phi_is_never_inverted_on_a_gpu_the_fit_never_saw(left_out):
    predicted = {
        (row.gpu, row.precision, row.batch, row.network): row.latency_ms * math.exp(-ratio)
        for row, ratio in left_out
        if row.family == "efficientnet"
    }
    pairs = [(key, (*key[:3], "b7")) for key in predicted if key[3] == "b4"]
    compared = [(predicted[small], predicted[large]) for small, large in pairs if large in predicted]
    assert len(compared) > 20
    assert all(small < large for small, large in compared)


def test_the_committed_model_is_what_the_committed_figures_give(fits):
    committed = fit_cost_model.MODEL_JSON.read_text(encoding="utf-8")
    assert fit_cost_model.make_model_json(fits) == committed


def test_the_committed_page_is_what_the_committed_figures_give(fits):
    committed = fit_cost_model.PAGE_MD.read_text(encoding="utf-8")
    assert page.with_tables(committed, page.tables(fits)) == committed


def test_the_committed_figure_is_what_the_committed_figures_give(left_out):
    """Text must be equal, coordinates within a hundredth of a point."""
    committed, made = (
        NUMBER.split(svg)
        for svg in (fit_cost_model.RESIDUALS_SVG.read_text("utf-8"), page.draw_residuals_svg(left_out))
    )
    assert made[::2] == committed[::2]
    assert list(map(float, made[1::2])) == pytest.approx(list(map(float, committed[1::2])), abs=0.01)


def test_the_page_counts_the_published_latencies_with_a_cuda_graph():
    with published.PUBLISHED_CSV.open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["runtime"] == "tensorrt"]
    silent = [line["gpu"] for line in lines if "--useCudaGraph" not in line["note"]]
    text = fit_cost_model.PAGE_MD.read_text(encoding="utf-8")
    assert f"{len(lines) - len(silent)} of the {len(lines)} TensorRT figures" in text
    assert f"The T4's {len(silent)} figures do not say" in text
    assert set(silent) == {"T4"}


def test_kernels_in_an_array_take_as_long_as_one_by_one():
    """The fit computes with arrays, the prediction with numbers."""
    found = load_fitted_model().parameters
    one_by_one = [
        latency_ms(
            published.build_network(row.family, row.network, row.side_px),
            find_gpu(row.gpu),
            row.precision,
            row.batch,
        )
        for row in ROWS
    ]
    assert fit.collect_work(ROWS).latencies_ms(found) == pytest.approx(one_by_one, rel=1e-9)


def test_intervals_contain_nine_tenths_of_the_errors_they_were_made_from(fits, left_out):
    """By construction, except for the weight of networks with few batches."""
    assert 0.85 <= errors.measure_coverage(left_out, load_fitted_model().interval_elsewhere) <= 0.95
    assert (
        0.85
        <= errors.measure_coverage(fits.without_gpu_and_design, load_fitted_model().interval_unfamiliar)
        <= 0.95
    )


@pytest.mark.parametrize("which", range(3))
def test_an_interval_from_other_gpus_contains_about_nine_tenths_of_unseen_rows(fits, which):
    _, pairs = fits.interval_sources[which]
    assert 0.85 <= errors.total_coverage_by_other_gpus(pairs) <= 0.95
    assert min(errors.coverage_by_other_gpus(pairs).values()) > 0.7


def test_a_gpus_coverage_does_not_depend_on_its_own_errors():
    rows = [row for row in ROWS if row.runtime == "tensorrt"]
    usual, odd = rows[0], next(row for row in rows if row.gpu != rows[0].gpu)
    pairs = [*((usual, log) for log in np.linspace(-0.1, 0.1, 21)), *((odd, 1.0) for _ in range(79))]
    assert errors.measure_coverage(pairs, errors.compute_interval(pairs)) > 0.9
    assert errors.coverage_by_other_gpus(pairs) == {usual.gpu: 0, odd.gpu: 0}
    assert errors.total_coverage_by_other_gpus(pairs) == 0


def width(network, gpu, precision="fp16", batch=8):
    found = predict_latency(network, find_gpu(gpu), precision=precision, batch=batch)
    return math.log(found.high_ms / found.low_ms)


def test_an_interval_is_wider_if_less_was_published():
    lite = find_family("efficientnet-lite")
    unfamiliar = lite.network(lite.base)
    assert width(B4, "A100 80GB") < width(B4, "A100 40GB") < width(unfamiliar, "A100 40GB")


def test_fp32_has_no_published_latencies_and_the_widest_interval(fits):
    found = {each: predict_latency(B4, V100, precision=each, batch=8) for each in ("fp32", "fp16", "int8")}
    assert {each: prediction.has_published_data for each, prediction in found.items()} == {
        each: any(row.precision == each for row in ROWS) for each in found
    }
    lite = find_family("efficientnet-lite")
    assert width(B4, "V100", "fp32") == pytest.approx(width(lite.network(lite.base), "V100"))


@pytest.mark.parametrize("gpu", ["A100", "H100"])
def test_an_interval_for_fp32_reaches_down_to_tf32_if_the_gpu_supports_it(gpu):
    """NVIDIA's datasheets, TFLOPS in TF32 and FP32: A100 156 and 19.5, H100 SXM5 494.7 and 67."""
    assert 1.2 < reach(gpu, resnet(50)) < 8


@pytest.mark.parametrize("gpu", ["V100", "T4", "RTX 3090"])
def test_an_interval_for_fp32_is_unchanged_if_tf32_is_absent_or_not_faster(gpu):
    """An RTX 3090 has 35.6 TFLOPS in both (NVIDIA GA102 whitepaper)."""
    assert reach(gpu, resnet(50)) == pytest.approx(1)


def reach(gpu, network):
    """Return how much further down the interval goes than the unfamiliar factor."""
    found = predict_latency(network, find_gpu(gpu), precision="fp32", batch=64)
    return found.latency_ms * load_fitted_model().interval_unfamiliar[0] / found.low_ms


def test_an_interval_widens_beyond_the_published_batches_and_sizes():
    assert width(B4, "T4", batch=1) == pytest.approx(width(B4, "T4", batch=64))
    assert width(B4, "T4", batch=128) == pytest.approx(1.2 * width(B4, "T4", batch=64))
    assert width(B4, "T4", batch=256) == pytest.approx(1.4 * width(B4, "T4", batch=64))
    b0, l2 = (
        find_family("efficientnet").network(scale)
        for scale in (BASE, Scale(depth=5.3, width=4.3, side_px=800))
    )
    assert width(l2, "T4") > 1.3 * width(b0, "T4")


def test_a_published_latency_is_within_its_interval():
    found = predict_latency(B4, find_gpu("A100 80GB"), precision="fp16", batch=8)
    assert found.low_ms <= 5.7 <= found.high_ms  # google/automl, effnetv2-s-gpu.png


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_without_images_is_rejected(batch):
    with refuses("invalid-batch"):
        latency_ms(B0, T4, batch=batch)


def test_a_gpu_with_too_few_facts_is_rejected_not_guessed():
    with refuses("gpu-facts-missing") as caught:
        latency_ms(B0, find_gpu("A30"), "int8")
    assert "int8_tensor_tops" in caught.value.problem
    with refuses("gpu-facts-missing") as caught:
        latency_ms(B0, find_gpu("A10G"))
    for fact in ("sm_count", "fp32_tflops", "fp16_tensor_tflops", "boost_mhz", "tdp_w"):
        assert fact in caught.value.problem


def test_every_gpu_with_complete_facts_is_predicted():
    facts = ("sm_count", "boost_mhz", "tdp_w", "memory_bandwidth_gb_s", "fp32_tflops", "fp16_tensor_tflops")
    complete = [gpu for gpu in known_gpus() if all(getattr(gpu, fact) for fact in facts)]
    assert len(complete) > 10
    assert all(latency_ms(B0, gpu) > 0 for gpu in complete)


def test_predicting_imports_nothing_heavy():
    code = "import sys, deploykit.planning.cost_model.cost_model; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "torch", "onnx", "scipy"} & set(loaded.split())


def keep_record(folder, *, on="NVIDIA T4", scope="device", cuda_graph=True, **engine_facts):
    """Write a record of B4 at 7 ms, or of an engine with other facts, to a folder."""
    machine = replace(records.MACHINE, kind="gpu", name=on)
    measured = records.engine(**{"phi": 4, "precision": "fp16", **engine_facts})
    record = records.latency(measured, 7.0, batch=8, machine=machine)
    method = replace(record.method, scope=scope, cuda_graph=cuda_graph)
    write_record(replace(record, method=method), folder)


def test_records_from_gpus_count_like_published_latencies(tmp_path):
    keep_record(tmp_path / "t4")
    (row,) = recorded.read_recorded(tmp_path)
    assert (row.gpu, row.family, row.network, row.batch) == ("T4", "efficientnet", "b4", 8)
    assert row.latency_ms == pytest.approx(7.0)
    before = fit.log_ratios([row], fit.fit_parameters(ROWS))
    after = fit.log_ratios([row], fit.fit_parameters([*ROWS, row]))
    assert abs(after[0]) < abs(before[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "end-to-end"},  # with transfers
        {"cuda_graph": False},
        {"on": "NVIDIA Unheard Of"},
        {"precision": "int8"},  # deploykit's engines use less INT8 than the published ones
        {"phi": 3.7},  # no published member
        {"family": "mine"},
    ],
)
def test_records_that_are_not_comparable_do_not_count(tmp_path, changes):
    keep_record(tmp_path, **changes)
    assert recorded.read_recorded(tmp_path) == ()
