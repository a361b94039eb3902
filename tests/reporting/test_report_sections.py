"""The sections of a report: their findings, tables and series."""

import re
from dataclasses import replace

import numpy as np
import pytest
from records import MACHINE, QUIET, STRETCHED, accuracy, engine, latency, layer, profile

from deploykit.bench.layers.layer_profile import explain_beaten_bounds
from deploykit.bench.record import Record
from deploykit.bench.server_scenario import Trial
from deploykit.networks.families.registry import FAMILIES
from deploykit.reporting.report.layer_roles import find_role
from deploykit.reporting.report.predicted_members import predict_families
from deploykit.reporting.report.report_data import arrange_records
from deploykit.reporting.report.section import Section
from deploykit.reporting.report.sections import accuracy as accuracy_section
from deploykit.reporting.report.sections import axes, batches, distributions, layers, serving, work
from deploykit.reporting.report.traces import COLOURS, log_axis


def column(section: Section, title: str) -> list[str]:
    at = [each.title for each in section.table.columns].index(title)
    return [row[at] for row in section.table.rows]


def series(section: Section) -> dict[str, dict]:
    return {trace["name"]: trace for trace in section.traces}


# ---------------------------------------------------------------- work


def test_latency_is_compared_with_work_and_its_cost_with_the_smallest_members():
    members = [
        latency(engine(phi=phi), 10 * engine(phi=phi).macs / 1e9 * cost) for phi, cost in ((0, 1), (3, 2))
    ]
    found = work.section(arrange_records(members), ())
    assert column(found, "network") == ["phi 0", "phi 3"]
    assert column(found, "MACs") == ["0.386 G", "1.83 G"]  # as timm's models have, in G
    assert column(found, "ms per G MACs") == ["10.00", "20.00"]
    assert column(found, "relative to the smallest") == ["1.00", "2.00"]
    (finding,) = found.findings
    interval = r"\([\d.]+ to [\d.]+\)"
    assert re.fullmatch(
        r"FP32: from phi 0 to phi 3 the work grows 4\.74-fold and the median latency 9\.47-fold "
        rf"{interval}\. They diverge most from phi 0 to phi 3: 4\.74 times the work takes 9\.47 times as "
        rf"long {interval}\. A multiply-accumulate is cheapest at phi 0 and most expensive at phi 3, by a "
        rf"factor of 2\.00 {interval}\.",
        finding,
    )
    line = series(found)["proportional to MACs, from phi 0,<br>FP32"]
    assert line["y"] == pytest.approx([10 * mac for mac in line["x"]])


def test_ties_and_caveats_of_runs_are_part_of_the_finding():
    members = [latency(engine(phi=phi), (10 + phi / 5000) * engine(phi=phi).macs / 1e9) for phi in (0, 1)]
    drifting = np.linspace(2, 2.6, 300) * 10 * engine(phi=3).macs / 1e9
    members.append(replace(latency(engine(phi=3), 1.0), latency_ms=tuple(map(float, drifting))))
    (finding,) = work.section(arrange_records(members), ()).findings
    assert "cheapest at phi 0 (phi 1 not clearly more expensive)" in finding
    assert "Caution: phi 3: the run drifts" in finding
    assert "19 %" in finding


def test_members_at_other_sides_are_not_on_the_curve():
    found = work.section(arrange_records([latency(engine(), 4.0), latency(engine(side_px=64), 1.0)]), ())
    assert column(found, "network") == ["phi 0"]


def test_predictions_are_shown_next_to_measurements_and_labelled():
    found = work.section(
        arrange_records([latency(engine(), 4.0)]), predict_families([FAMILIES["efficientnet"]], ["T4"])
    )
    assert column(found, "evidence") == ["measured"] + ["predicted"] * 8
    assert found.evidence == ("measured", "predicted")
    assert "EfficientNet on T4, FP16, TensorRT,<br>predicted" in series(found)


# ---------------------------------------------------------------- accuracy


def test_a_slower_and_less_accurate_network_is_not_on_the_front():
    records = [
        latency(engine(phi=0), 4.0),
        latency(engine(phi=1), 6.0),
        latency(engine(scale=STRETCHED[0]), 7.0),  # 79.0 % where phi 1 has 79.1 %
        latency(engine(phi=3), 20.0),
    ]
    found = accuracy_section.section(arrange_records(records), ())
    front = dict(zip(column(found, "network"), column(found, "on the Pareto front"), strict=True))
    assert front == {"phi 0": "yes", "phi 1": "yes", "depth 4": "", "phi 3": "yes"}
    assert "Another network is better in both than depth 4 (FP32)." in found.findings[0]
    assert found.evidence == ("measured", "recorded")


def test_int8_is_shown_only_if_evaluated_and_competes_on_those_images_only():
    int8 = engine(precision="int8")
    records = [latency(engine(), 4.0), latency(int8, 3.0)]
    assert column(accuracy_section.section(arrange_records(records), ()), "setup") == ["FP32"]
    found = accuracy_section.section(arrange_records([*records, accuracy(int8, 0.5)]), ())
    assert dict(zip(column(found, "setup"), column(found, "top-1, % (interval)"), strict=True)) == {
        "FP32": "77.10",
        "INT8": "50.00 (49.00 to 51.00)",
    }
    assert column(found, "on the Pareto front") == ["yes", "yes"]
    assert len(found.findings) == 2
    # The image sets differ in symbol, name and title, and intervals are drawn.
    points = [trace for trace in found.traces if trace["mode"] == "markers"]
    assert len({trace["marker"]["symbol"] for trace in points}) == 2
    assert {trace["marker"]["color"] for trace in points} == set(COLOURS[:2])
    assert "500 images of photos" in points[1]["name"]
    assert points[1]["error_y"]["array"] == pytest.approx([1.0])
    assert "one symbol per image set" in found.layout["yaxis"]["title"]["text"]


def test_accuracies_on_different_images_do_not_compete():
    int8 = engine(precision="int8")
    records = [latency(engine(), 4.0), latency(int8, 3.0), accuracy(engine(), 0.8)]
    fewer = accuracy(int8, 0.9, images=20, data_sha256="2" * 64)
    found = accuracy_section.section(arrange_records([*records, fewer]), ())
    assert column(found, "on the Pareto front") == ["yes", "yes"]
    same_images = accuracy_section.section(arrange_records([*records, accuracy(int8, 0.9)]), ())
    assert sorted(column(same_images, "on the Pareto front")) == ["", "yes"]
    others = accuracy(int8, 0.9, images_sha256="other images of the same labels")
    apart = accuracy_section.section(arrange_records([*records, others]), ())
    assert column(apart, "on the Pareto front") == ["yes", "yes"]


def test_a_network_is_possibly_on_the_front_if_the_intervals_leave_it_open():
    int8 = engine(precision="int8")
    records = [latency(engine(), 4.0), latency(int8, 3.0), accuracy(engine(), 0.8), accuracy(int8, 0.805)]
    found = accuracy_section.section(arrange_records(records), ())
    assert dict(zip(column(found, "setup"), column(found, "on the Pareto front"), strict=True)) == {
        "INT8": "yes",
        "FP32": "possibly",
    }
    assert "The intervals leave it open for phi 0 (FP32)." in found.findings[0]


def test_fronts_of_different_machines_are_drawn_differently():
    elsewhere = replace(MACHINE, name="Quipu")
    records = [latency(engine(), 4.0), latency(engine(), 2.0, machine=elsewhere)]
    fronts = [
        trace
        for trace in accuracy_section.section(arrange_records(records), ()).traces
        if trace["mode"] == "lines"
    ]
    assert len({(trace["line"]["color"], trace["line"]["dash"]) for trace in fronts}) == 2
    assert [trace["name"].startswith("front on ") for trace in fronts] == [True, True]


def test_predicted_latencies_are_drawn_with_their_intervals():
    predicted = predict_families([FAMILIES["efficientnet"]], ["T4"])
    found = accuracy_section.section(arrange_records([latency(engine(), 4.0)]), predicted)
    (points,) = [trace for trace in found.traces if trace.get("marker", {}).get("symbol") == "circle-open"]
    for value, above, below, each in zip(
        points["x"], points["error_x"]["array"], points["error_x"]["arrayminus"], predicted, strict=True
    ):
        assert (value + above, value - below) == pytest.approx((each.latency.high_ms, each.latency.low_ms))


def test_the_accuracy_on_the_most_images_counts():
    gathered = arrange_records([accuracy(engine(), 0.7), accuracy(engine(), 0.9, images=5)])
    assert gathered.find_accuracy(engine()).top1.value == 0.7


def test_a_network_with_other_classes_has_no_imagenet_accuracy():
    assert accuracy_section.section(arrange_records([latency(engine(classes=12), 4.0)]), ()) is None
    assert accuracy_section.section(arrange_records([latency(engine(classes=1000), 4.0)]), ()) is not None


def test_a_models_accuracy_counts_for_its_engine_at_the_same_precision_only():
    gathered = arrange_records([accuracy(engine(), 0.7, sha256="the onnx file"), latency(engine(), 4.0)])
    assert gathered.find_accuracy(engine()).top1.value == 0.7
    assert gathered.find_accuracy(engine(precision="int8")) is None
    assert gathered.find_accuracy(engine(phi=1)) is None


# ---------------------------------------------------------------- batches


def test_throughput_is_shown_by_batch_with_the_best_batch():
    def offline(batch: int, images_per_s: float):
        ms = 1000 * batch / images_per_s
        return replace(latency(engine(), ms, scenario="offline", batch=batch), latency_ms=(ms,) * 10)

    found = batches.section(arrange_records([offline(1, 100), offline(8, 180), offline(4, 200)]))
    assert column(found, "best batch") == ["4"]
    assert found.findings == (
        "FP32: a larger batch increases images/s 2.00 times (2 to 2) for phi 0 at batch 4.",
    )
    assert series(found)["phi 0, FP32"]["y"] == pytest.approx([100, 200, 180])
    assert batches.section(arrange_records([offline(1, 100)])) is None


def test_a_batch_within_the_noise_is_not_called_better():
    made = [latency(engine(), ms, scenario="offline", batch=batch) for batch, ms in ((1, 10), (2, 19.99))]
    found = batches.section(arrange_records(made))
    assert found.findings == ("FP32: no batch is clearly better than the smallest for phi 0.",)
    assert column(found, "best batch") == ["2 (1)"]


def test_of_many_series_only_one_setup_is_visible_at_first_and_a_note_says_so():
    precisions = ("fp32", "fp16", "int8")
    made = [
        latency(engine(phi=phi, precision=precision), batch * 10.0, scenario="offline", batch=batch)
        for phi in range(8)
        for precision in precisions
        for batch in (1, 2)
    ]
    found = batches.section(arrange_records(made))
    shown = {trace["name"] for trace in found.traces if trace["visible"] is True}
    assert shown == {f"phi {phi}, FP32" for phi in range(8)}
    (note,) = [each for each in found.notes if "visible at first" in each]
    assert note.startswith("Only FP32 is visible")
    fewer = batches.section(arrange_records([each for each in made if each.engine.precision != "int8"]))
    assert all(trace["visible"] is True for trace in fewer.traces)
    assert not any("visible at first" in note for note in fewer.notes)


# ---------------------------------------------------------------- serving


def served(bound_ms: float, holds: float, fails: float, batch: int = 4) -> Record:
    trials = tuple(
        Trial(rate_per_s=rate, requests=1000, late=0, holds=held)
        for rate, held in ((holds, True), (fails, False))
    )
    record = latency(engine(), bound_ms / 2, batch=batch)
    return replace(
        record,
        method=replace(record.method, scenario="server", max_latency_ms=bound_ms),
        trials=trials,
    )


def test_rates_that_meet_a_bound_are_shown_next_to_the_throughput_without_one():
    made = [
        served(10, 100, 104),
        served(50, 160, 166),
        *(latency(engine(), 20.0, scenario="offline", batch=batch) for batch in (1, 4, 8)),
    ]
    found = serving.section(arrange_records(made))
    assert column(found, "bound, ms") == ["10", "50"]
    assert column(found, "meets it, images/s") == ["100", "160"]
    assert column(found, "misses it, images/s") == ["104", "166"]
    assert all(cell.startswith("19") for cell in column(found, "offline, images/s"))  # of 4 in 20 ms
    assert re.fullmatch(
        r"phi 0, FP32, batch up to 4: 100 images/s meet a p99 of 10 ms \(104 do not; 5\d % of offline\) and "
        r"160 images/s meet a p99 of 50 ms \(166 do not; 8\d % of offline\)\.",
        found.findings[0],
    )
    (points,) = found.traces
    assert (points["x"], points["y"]) == ([10, 50], [100, 160])
    assert points["error_y"]["array"] == pytest.approx([4, 6])
    assert serving.section(arrange_records(made[2:])) is None


def test_a_search_that_was_cut_short_gets_a_caveat():
    assert served(10, 100, 104).run_caveats == ()
    record = served(10, 100, 200)
    (caveat,) = record.run_caveats
    (finding,) = serving.section(arrange_records([record])).findings
    assert finding.endswith(f"Caution: phi 0 at batch 4: {caveat[0].lower()}{caveat[1:]}")


# ---------------------------------------------------------------- distributions


def test_a_curve_rises_while_there_are_enough_calls_and_is_one_at_the_median():
    record = latency(engine(), 10.0)
    found = distributions.section(arrange_records([record]))
    curve = series(found)["phi 0, FP32"]
    assert curve["y"] == sorted(curve["y"])
    assert max(curve["x"]) <= len(record.latency_ms) / 10  # 1 of 20: the 95th percentile of 201 calls
    assert max(curve["x"]) > 18
    nearest = min(range(len(curve["x"])), key=lambda at: abs(curve["x"][at] - 2))  # 1 of 2: the median
    assert curve["y"][nearest] == pytest.approx(1, abs=0.01)
    assert column(found, "p99, ms")[0].startswith("~")
    assert not column(found, "p90, ms")[0].startswith("~")


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize(
    ("of", "role"),
    [
        (layer("blocks.1.0.conv_dw", "Conv", 1, macs=5), "depthwise"),
        (layer("blocks.1.0.conv_pw", "Conv", 1, macs=5), "pointwise"),
        (layer("blocks.1.0.conv_pwl.product", "QGemm", 1, macs=5), "pointwise"),
        (layer("blocks.1.0.se.conv_reduce", "FusedConv", 1, macs=5), "squeeze-excite"),
        (layer("blocks.1.0.se.pool", "GlobalAveragePool", 1), "squeeze-excite"),
        (layer("conv_stem", "Conv", 1, macs=5), "stem and head"),
        (layer("blocks.1.0.se.scale.transposed", "Transpose", 1), "layout and types"),
        (layer(None, "ReorderOutput", 1), "layout and types"),
        (layer(None, "QuickGelu", 1), "separate activations"),
        (layer("layer1.0.conv2", "Conv", 1, macs=5), "other products"),
        (layer("blocks.1.0.add", "Add", 1), "other layers"),
    ],
)
def test_each_layer_has_a_role(of, role):
    assert find_role(of) == role


def test_time_by_role_is_compared_with_its_bound():
    own = [
        layer("blocks.1.0.conv_pw", "Conv", 6, macs=90, bound_ms=3),
        layer("blocks.1.1.conv_pw", "Conv", 0, macs=0, bound_ms=0.0),
        layer("blocks.1.0.conv_dw", "Conv", 4, macs=10, bound_ms=1),
    ]
    (found,) = layers.sections(arrange_records([profile(engine(), own)]))
    assert column(found, "layers") == ["depthwise", "pointwise"]
    assert column(found, "share of time, %") == ["40.0", "60.0"]
    assert column(found, "time / bound") == ["4.0", "2.0"]
    assert found.findings == (
        "phi 0: pointwise takes 60 % of the time for 90 % of the MACs, 2.0 times its bound; "
        "depthwise takes 40 % of the time for 10 % of the MACs, 4.0 times its bound.",
    )
    assert series(found)["depthwise"]["y"] == pytest.approx([40, 10])


def test_a_time_below_its_bound_is_marked_and_explained():
    own = [
        layer("blocks.1.0.conv_dw", "Conv", 4, macs=10, bound_ms=5),
        layer("blocks.1.0.conv_pw", "Conv", 6, macs=10, bound_ms=5),
    ]
    (found,) = layers.sections(arrange_records([profile(engine(), own)]))
    assert column(found, "time / bound") == ["0.8 *", "1.2"]
    (note,) = [each for each in found.notes if each.startswith("*")]
    assert "1 of 2 single layers" in note
    assert note.endswith(explain_beaten_bounds(profile(engine(), own)))


def test_shares_of_time_have_intervals():
    own = [
        replace(layer(f"blocks.1.0.{node}", "Conv", ms), low_ms=ms - 1, high_ms=ms + 1)
        for node, ms in (("conv_dw", 4), ("conv_pw", 16))
    ]
    (found,) = layers.sections(arrange_records([profile(engine(), own)]))
    assert column(found, "time, ms") == ["4.000 (3 to 5)", "16.000 (15 to 17)"]
    assert column(found, "share of time, %") == [
        "20.0 (15 to 25)",
        "80.0 (75 to 85)",
    ]  # 3 of 3 + 17, 5 of 5 + 15
    assert found.findings[0].startswith("phi 0: pointwise takes 80 % of the time (75 to 85)")


def test_a_disturbed_profile_gets_a_caveat():
    after = replace(QUIET, moment_s=10, busy_s=10)
    disturbed = profile(engine(), [layer("conv_stem", "Conv", 1.0)], before=QUIET, after=after)
    (found,) = layers.sections(arrange_records([disturbed]))
    (caveat,) = disturbed.run_caveats
    assert "50 %" in caveat
    assert found.findings[0].endswith(f"Caution: phi 0: {caveat[0].lower()}{caveat[1:]}")


def test_layers_without_a_bound_are_shown_without_one():
    own = [layer("blocks.1.0.conv_pw", "Conv", 6, macs=90, bound_ms=None), layer(None, "Add", 2, bound_ms=1)]
    (found,) = layers.sections(arrange_records([profile(engine(), own)]))
    assert column(found, "time / bound") == ["", "2.0"]
    assert (
        "pointwise takes 75 % of the time for 100 % of the MACs; other layers takes 25 % of the time, "
        "2.0 times" in found.findings[0]
    )
    assert series(found)["pointwise"]["y"] == pytest.approx([75, 0])


# ---------------------------------------------------------------- axes


def test_one_axis_alone_is_compared_with_the_member_of_similar_work():
    depth4 = engine(scale=STRETCHED[0])
    records = [
        latency(engine(phi=0), 4.0),
        latency(engine(phi=3), 10 * engine(phi=3).macs / 1e9),
        latency(depth4, 15 * depth4.macs / 1e9),
    ]
    (found,) = axes.sections(arrange_records(records))
    assert found.findings == (
        "Compared with phi 3 (81.6 % top-1), which has about as much work, a multiply-accumulate takes "
        "1.50 times as long (1.5 to 1.5) in depth 4 (79.0 % top-1).",
    )
    assert column(found, "compared with") == ["", "", "phi 3"]
    assert column(found, "relative to compound") == ["", "", "1.50 (1.5 to 1.5)"]
    assert set(series(found)) == {"compound", "depth alone"}
    assert axes.sections(arrange_records(records[:2])) == ()


def test_a_network_without_a_similar_member_is_shown_but_not_compared():
    (found,) = axes.sections(arrange_records([latency(engine(scale=STRETCHED[1]), 4.0)]))
    assert found.findings == ()
    assert column(found, "relative to compound") == [""]


# ---------------------------------------------------------------- logarithmic axes


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.4, 38], [0.5, 1, 2, 5, 10, 20]),
        ([4, 6], [4, 5, 6]),  # 1, 2, 5 would make one
        ([8.0], [6.2, 6.3]),
        ([100], [77, 78]),
    ],
)
def test_a_logarithmic_axis_always_has_at_least_three_numbers(values, ticks):
    axis = log_axis("ms", [{"x": values}], "x")
    assert len(axis["tickvals"]) >= 3
    assert axis["tickvals"][: len(ticks)] == pytest.approx(ticks)
