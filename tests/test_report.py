"""What a report says of records, as data."""

from dataclasses import replace

import pytest
from records import MACHINE, STRETCHED, accuracy, engine, latency, layer, profile

from deploykit.architecture.families import FAMILIES
from deploykit.bench.record_file import write_record
from deploykit.report import write_report
from deploykit.report.gather import arrange, gather, network_name, setup_of, short_machine
from deploykit.report.page import figure_json, sections_of
from deploykit.report.predicted import predict_families
from deploykit.report.section import Section, hover, log_axis
from deploykit.report.sections import accuracy as accuracy_section
from deploykit.report.sections import axes, batches, distributions, layers, work
from deploykit.scaling import Scale


def column(section: Section, title: str) -> list[str]:
    at = [each.title for each in section.table.columns].index(title)
    return [row[at] for row in section.table.rows]


def series(section: Section) -> dict[str, dict]:
    return {trace["name"]: trace for trace in section.traces}


# ---------------------------------------------------------------- gathering


def test_of_what_was_measured_twice_the_later_is_shown_and_told():
    once = latency(engine(), 4.0)
    again = latency(engine(), 5.0, started="2026-01-03T00:00:00.000+00:00")
    found = arrange([again, once, latency(engine(), 6.0, batch=8)])
    assert [each.percentile_ms(50).value for each in found.latencies] == pytest.approx([5.0, 6.0])
    assert found.superseded == 1


def test_what_ran_otherwise_is_another_series_named_by_what_differs():
    elsewhere = replace(MACHINE, name="Quipu")
    records = [
        latency(engine(), 4.0),
        latency(engine(precision="int8"), 3.0),
        latency(engine(), 2.0, machine=elsewhere),
    ]
    setups = arrange(records).setups
    assert [setup_of(each).title(setups) for each in records] == [
        "FP32, Abacus 9000",
        "INT8, Abacus 9000",
        "FP32, Quipu",
    ]
    alone = arrange(records[:2]).setups
    assert [each.title(alone) for each in alone] == ["FP32", "INT8"]


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (engine(phi=3), "phi 3"),
        (engine(phi=2.5), "phi 2.5"),
        (engine(phi=0, side_px=64), "phi 0, 64 px"),
        (engine(phi=1, family="resnet18", rule="formula", side_px=256), "resnet18 phi 1"),
        (engine(phi=1, family="mine", rule="formula"), "mine phi 1, 240 px"),
        (engine(scale=Scale(depth=4.0, width=1.0, side_px=224)), "depth 4"),
        (engine(scale=Scale(depth=1.0, width=1.0, side_px=448)), "side 448 px"),
        (engine(family="unknown", phi=None, depth=None, width=None, name="mine.onnx"), "mine.onnx"),
        (engine(phi=None, depth=None, width=None, name="old.onnx"), "old.onnx"),
    ],
)
def test_networks_are_called_by_how_they_are_scaled(of, name):
    assert network_name(of) == name


def test_processors_lose_their_trademarks():
    assert short_machine("Intel(R) Xeon(R) CPU E5-2670 v3 @ 2.30GHz") == "Intel Xeon E5-2670 v3"
    assert short_machine("AMD EPYC 7763 64-Core Processor") == "AMD EPYC 7763"


def test_records_are_read_from_files_and_folders(tmp_path):
    one = write_record(latency(engine(), 4.0), tmp_path)
    write_record(latency(engine(phi=1), 4.0), tmp_path)
    assert len(gather([tmp_path, one]).latencies) == 2
    assert len(gather([one]).latencies) == 1


def test_two_engines_of_one_network_are_two_series_and_one_under_two_names_is_one():
    kinder = engine(precision="int8", sha256="of other layers", name="kinder.onnx")
    renamed = engine(precision="int8", name="renamed.onnx")
    records = [latency(each, ms) for each, ms in ((engine(precision="int8"), 3), (kinder, 4), (renamed, 5))]
    found = arrange(records)
    assert sorted(setup.title(found.setups) for setup in found.setups) == [
        "INT8, ONNX Runtime 1.31, kinder.onnx",
        "INT8, ONNX Runtime 1.31, phi0.int8.onnx",
    ]
    assert len(found.latencies) == 2
    assert found.superseded == 1


def test_machines_of_one_name_are_told_apart_by_their_cores():
    large = replace(MACHINE, cores=64)
    setups = arrange([latency(engine(), 4.0), latency(engine(), 1.0, machine=large)]).setups
    assert [each.title(setups) for each in setups] == ["FP32, 2 cores", "FP32, 64 cores"]


# ---------------------------------------------------------------- work


def test_latency_is_set_beside_work_and_its_cost_beside_the_first_members():
    members = [
        latency(engine(phi=phi), 10 * engine(phi=phi).macs / 1e9 * cost) for phi, cost in ((0, 1), (3, 2))
    ]
    found = work.section(arrange(members), ())
    assert column(found, "network") == ["phi 0", "phi 3"]
    assert column(found, "MACs") == ["0.386 G", "1.83 G"]  # as timm's models have, in G
    assert column(found, "ms per G MACs") == ["10.00", "20.00"]
    assert column(found, "of the first's") == ["1.00", "2.00"]
    assert found.findings == (
        "FP32: from phi 0 to phi 3 the work grows 4.74-fold and the median latency 9.47-fold. A "
        "multiply-accumulate is cheapest at phi 0 and dearest at phi 3, by a factor of 2.00.",
    )
    line = series(found)["as the MACs, from phi 0, FP32"]
    assert line["y"] == pytest.approx([10 * mac for mac in line["x"]])


def test_members_at_other_sides_are_no_members_of_the_curve():
    found = work.section(arrange([latency(engine(), 4.0), latency(engine(side_px=64), 1.0)]), ())
    assert column(found, "network") == ["phi 0"]


def test_predictions_stand_beside_and_are_called_that():
    found = work.section(
        arrange([latency(engine(), 4.0)]), predict_families([FAMILIES["efficientnet"]], ["T4"])
    )
    assert column(found, "evidence") == ["measured"] + ["predicted"] * 8
    assert found.evidence == ("measured", "predicted")
    assert "EfficientNet on T4, FP16, TensorRT, predicted" in series(found)


# ---------------------------------------------------------------- accuracy


def test_what_is_slower_and_less_accurate_is_off_the_front():
    records = [
        latency(engine(phi=0), 4.0),
        latency(engine(phi=1), 6.0),
        latency(engine(scale=STRETCHED[0]), 7.0),  # 79.0 % where phi 1 has 79.1 %
        latency(engine(phi=3), 20.0),
    ]
    found = accuracy_section.section(arrange(records), ())
    front = dict(zip(column(found, "network"), column(found, "on the front"), strict=True))
    assert front == {"phi 0": "yes", "phi 1": "yes", "depth 4": "", "phi 3": "yes"}
    assert "depth 4 (FP32) can be bettered in both" in found.findings[0]
    assert found.evidence == ("measured", "recorded")


def test_int8_is_shown_where_it_was_evaluated_and_competes_on_those_images_alone():
    int8 = engine(precision="int8")
    records = [latency(engine(), 4.0), latency(int8, 3.0)]
    assert column(accuracy_section.section(arrange(records), ()), "runs on") == ["FP32"]
    found = accuracy_section.section(arrange([*records, accuracy(int8, 0.5)]), ())
    assert dict(zip(column(found, "runs on"), column(found, "top-1"), strict=True)) == {
        "FP32": "77.10 %",
        "INT8": "50.00 %",
    }
    assert column(found, "on the front") == ["yes", "yes"]
    assert len(found.findings) == 2


def test_accuracies_on_other_images_do_not_compete():
    int8 = engine(precision="int8")
    records = [latency(engine(), 4.0), latency(int8, 3.0), accuracy(engine(), 0.8)]
    fewer = accuracy(int8, 0.9, images=20, data_sha256="2" * 64)
    found = accuracy_section.section(arrange([*records, fewer]), ())
    assert column(found, "on the front") == ["yes", "yes"]
    alike = accuracy_section.section(arrange([*records, accuracy(int8, 0.9)]), ())
    assert sorted(column(alike, "on the front")) == ["", "yes"]


def test_the_accuracy_on_the_most_images_counts():
    gathered = arrange([accuracy(engine(), 0.7), accuracy(engine(), 0.9, images=5)])
    assert gathered.accuracy_of(engine()).top1.value == 0.7


def test_a_network_of_other_classes_gets_no_accuracy_on_imagenet():
    assert accuracy_section.section(arrange([latency(engine(classes=12), 4.0)]), ()) is None
    assert accuracy_section.section(arrange([latency(engine(classes=1000), 4.0)]), ()) is not None


def test_accuracy_of_the_model_an_engine_was_made_from_counts_in_its_precision_alone():
    gathered = arrange([accuracy(engine(), 0.7, sha256="the onnx file"), latency(engine(), 4.0)])
    assert gathered.accuracy_of(engine()).top1.value == 0.7
    assert gathered.accuracy_of(engine(precision="int8")) is None
    assert gathered.accuracy_of(engine(phi=1)) is None


# ---------------------------------------------------------------- batches


def test_throughput_is_shown_by_batch_with_the_best():
    def offline(batch: int, images_per_s: float):
        ms = 1000 * batch / images_per_s
        return replace(latency(engine(), ms, scenario="offline", batch=batch), latency_ms=(ms,) * 10)

    found = batches.section(arrange([offline(1, 100), offline(8, 180), offline(4, 200)]))
    assert column(found, "best batch") == ["4"]
    assert found.findings == ("FP32: the best batch is 4 for phi 0 (2.00 times batch 1).",)
    assert series(found)["phi 0, FP32"]["y"] == pytest.approx([100, 200, 180])
    assert batches.section(arrange([offline(1, 100)])) is None


# ---------------------------------------------------------------- distributions


def test_a_curve_rises_to_the_slowest_call_and_is_one_at_the_median():
    record = latency(engine(), 10.0)
    found = distributions.section(arrange([record]))
    curve = series(found)["phi 0, FP32"]
    assert curve["y"] == sorted(curve["y"])
    assert curve["y"][-1] == pytest.approx(max(record.latency_ms) / 10)
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
        (layer(None, "QuickGelu", 1), "activations alone"),
        (layer("layer1.0.conv2", "Conv", 1, macs=5), "other products"),
        (layer("blocks.1.0.add", "Add", 1), "rest"),
    ],
)
def test_layers_have_roles(of, role):
    assert layers.role(of) == role


def test_time_by_role_is_set_beside_its_bound():
    own = [
        layer("blocks.1.0.conv_pw", "Conv", 6, macs=90, bound_ms=3),
        layer("blocks.1.1.conv_pw", "Conv", 0, macs=0, bound_ms=0.0),
        layer("blocks.1.0.conv_dw", "Conv", 4, macs=10, bound_ms=1),
    ]
    (found,) = layers.sections(arrange([profile(engine(), own)]))
    assert column(found, "layers") == ["depthwise", "pointwise"]
    assert column(found, "of all") == ["40.0 %", "60.0 %"]
    assert column(found, "time / bound") == ["4.0", "2.0"]
    assert found.findings == (
        "phi 0: pointwise 60 % of the time for 90 % of the MACs, 2.0 times its bound; "
        "depthwise 40 % of the time for 10 % of the MACs, 4.0 times its bound.",
    )
    assert series(found)["depthwise"]["y"] == pytest.approx([40, 10])


def test_what_has_no_bound_is_shown_without():
    own = [layer("blocks.1.0.conv_pw", "Conv", 6, macs=90, bound_ms=None), layer(None, "Add", 2, bound_ms=1)]
    (found,) = layers.sections(arrange([profile(engine(), own)]))
    assert column(found, "time / bound") == ["", "2.0"]
    assert (
        "pointwise 75 % of the time for 100 % of the MACs; rest 25 % of the time, 2.0 times"
        in found.findings[0]
    )
    assert series(found)["pointwise"]["y"] == pytest.approx([75, 0])


# ---------------------------------------------------------------- axes


def test_one_axis_alone_is_compared_with_the_member_of_as_much_work():
    depth4 = engine(scale=STRETCHED[0])
    records = [
        latency(engine(phi=0), 4.0),
        latency(engine(phi=3), 10 * engine(phi=3).macs / 1e9),
        latency(depth4, 15 * depth4.macs / 1e9),
    ]
    (found,) = axes.sections(arrange(records))
    assert found.findings == (
        "With the work of phi 3 (81.6 % top-1), a multiply-accumulate takes 1.50 times for depth 4 "
        "(79.0 % top-1).",
    )
    assert column(found, "work as") == ["", "", "phi 3"]
    assert column(found, "of compound's") == ["", "", "1.50"]
    assert set(series(found)) == {"compound", "depth alone"}
    assert axes.sections(arrange(records[:2])) == ()


def test_a_network_without_a_member_like_it_is_shown_and_not_compared():
    (found,) = axes.sections(arrange([latency(engine(scale=STRETCHED[1]), 4.0)]))
    assert found.findings == ()
    assert column(found, "of compound's") == [""]


# ---------------------------------------------------------------- axes with numbers


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.4, 38], [0.5, 1, 2, 5, 10, 20]),
        ([4, 6], [4, 5, 6]),  # 1, 2, 5 would make one
        ([8.0], [6.2, 6.3]),
        ([100], [77, 78]),
    ],
)
def test_a_logarithmic_axis_has_numbers_however_little_it_spans(values, ticks):
    axis = log_axis("ms", [{"x": values}], "x")
    assert len(axis["tickvals"]) >= 3
    assert axis["tickvals"][: len(ticks)] == pytest.approx(ticks)


# ---------------------------------------------------------------- texts and files


def test_texts_from_outside_stay_texts_in_plots():
    assert hover("<a href='x'>", "b") == "&lt;a href=&#x27;x&#x27;&gt;<br>b"
    hostile = engine(family="unknown", phi=None, depth=None, width=None, name="</script><b>")
    for section in sections_of(arrange([latency(hostile, 4.0)])):
        assert "<" not in figure_json(section)


def test_what_was_not_measured_is_no_section():
    assert sections_of(arrange([accuracy(engine(), 0.7)])) == ()


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (("empty",), "no records to report on"),
        (("none.json",), "There is no record none.json"),
        (("good", "--predict", "T5"), "No GPU named 'T5'"),
        (("good", "-o", "good"), "not a file that can be replaced"),
        (("good/record.json", "-o", "good/record.json"), "would replace what it is made from"),
        (("bad",), "is no record"),
        (("good", "-o", "other.json"), "is there, and is no HTML page"),
        (("accuracies",), "answer none of a report's questions"),
    ],
)
def test_bad_input_gets_a_sentence_and_leaves_nothing(run, workplace, arguments, about):
    for name in ("empty", "good", "bad"):
        (workplace / name).mkdir()
    (workplace / "other.json").write_text("{}")
    write_record(accuracy(engine(), 0.7), workplace / "accuracies")
    write_record(latency(engine(), 4.0), workplace / "good").rename("good/record.json")
    (workplace / "bad" / "record.json").write_text('{"format": 2, "kind": "latency"}')
    refused = run("report", *arguments)
    assert (refused.status, refused.out) == (2, "")
    assert about in refused.err
    assert not (workplace / "report.html").exists()
    assert (workplace / "other.json").read_text() == "{}"


def test_it_prints_what_it_found_and_where(run, workplace):
    write_record(latency(engine(), 4.0), workplace / "records")
    write_record(latency(engine(phi=1), 4.0), workplace / "records")
    shown = run("report", "records", "-o", "out/r.html", "--title", "A & B")
    assert shown.status == 0
    assert (
        "Does latency follow the multiply-accumulates? (measured)\n  FP32: from phi 0 to phi 1" in shown.out
    )
    assert "out/r.html: " in shown.out
    assert "<title>A &amp; B</title>" in (workplace / "out" / "r.html").read_text()


def test_from_python_the_sections_come_back(workplace):
    path = write_record(latency(engine(), 4.0), workplace)
    assert [each.name for each in write_report([path])] == ["work", "accuracy", "distributions"]
