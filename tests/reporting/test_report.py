"""A report as a whole: its texts, its colours, its inputs."""

import pytest
from records import accuracy, engine, latency, layer, profile

from deploykit.bench.record_file import write_record
from deploykit.reporting.report import write_report
from deploykit.reporting.report.page import make_figure_json, make_sections, render_page
from deploykit.reporting.report.report_data import arrange_records
from deploykit.reporting.report.text import hover_text, plot_label
from deploykit.reporting.report.traces import COLOURS


def test_text_from_records_is_escaped_in_plots():
    assert hover_text("<a href='x'>", "b") == "&lt;a href='x'&gt;<br>b"  # quotes are harmless there
    hostile = engine(family="unknown", phi=None, depth=None, width=None, name="</script><b>")
    for section in make_sections(arrange_records([latency(hostile, 4.0)])):
        assert "<" not in make_figure_json(section)


def test_long_names_are_cut_in_the_middle_and_wrapped():
    assert plot_label("phi 0", "FP32") == "phi 0, FP32"
    assert plot_label("phi 0", "FP32", "Abacus 9000, the second of its kind") == (
        "phi 0,<br>FP32,<br>Abacus 9000, the second of its kind"
    )
    assert plot_label("a" * 40 + "b" * 1000) == "a" * 28 + "…" + "b" * 15


def test_the_page_lists_machines_and_methods_including_profiles():
    gathered = arrange_records([latency(engine(), 4.0), profile(engine(), [layer("conv_stem", "Conv", 1.0)])])
    shown = render_page("Mine", gathered, make_sections(gathered))
    assert "layers, 2 threads" in shown
    assert "Measured on Abacus 9000 (2 cores)" in shown
    assert "1 measurement of latency or throughput, 1 profile by layer and 0 evaluations of" in shown


def test_a_setup_has_the_same_colour_in_every_plot():
    made = []
    for precision, macs_ms in (("fp32", 10), ("int8", 6)):
        for phi in (0, 1):
            of = engine(phi=phi, precision=precision)
            made.append(latency(of, macs_ms * of.macs / 1e9))
            made += [latency(of, 9.0 * batch, scenario="offline", batch=batch) for batch in (1, 2)]
    gathered = arrange_records([*made, *(accuracy(each.engine, 0.7) for each in made)])
    found: dict[str, set[str]] = {"FP32": set(), "INT8": set()}
    for section in make_sections(gathered):
        for trace in section.traces:
            for name, colours in found.items():
                if name in trace["name"] and "proportional to MACs" not in trace["name"]:
                    colours.add((trace.get("line") or trace["marker"])["color"])
    assert found == {"FP32": {COLOURS[0]}, "INT8": {COLOURS[1]}}


def test_a_question_without_records_has_no_section():
    assert make_sections(arrange_records([accuracy(engine(), 0.7)])) == ()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("empty",), "records-missing"),
        (("none.json",), "record-not-found"),
        (("good", "--predict", "T5"), "unknown-gpu"),
        (("good", "-o", "good"), "output-not-a-file"),
        (("good/record.json", "-o", "good/record.json"), "output-is-input"),
        (("bad",), "record-damaged"),
        (("good", "-o", "other.json"), "file-exists"),
        (("good", "-o", "report.txt"), "invalid-output-name"),
        (("accuracies",), "records-insufficient"),
        (("good", "--title", " "), "invalid-title"),
    ],
)
def test_invalid_input_is_rejected_and_nothing_is_written(run, workplace, arguments, code):
    for name in ("empty", "good", "bad"):
        (workplace / name).mkdir()
    (workplace / "other.json").write_text("{}")
    write_record(accuracy(engine(), 0.7), workplace / "accuracies")
    write_record(latency(engine(), 4.0), workplace / "good").rename("good/record.json")
    (workplace / "bad" / "record.json").write_text('{"format": 2, "kind": "latency"}')
    refused = run("report", *arguments)
    assert (refused.status, refused.out, refused.code) == (2, "", code)
    assert not (workplace / "report.html").exists()
    assert (workplace / "other.json").read_text() == "{}"


def test_the_command_prints_its_findings_and_the_page(run, workplace):
    write_record(latency(engine(), 4.0), workplace / "records")
    write_record(latency(engine(phi=1), 4.0), workplace / "records")
    shown = run("report", "records", "-o", "out/r.html", "--title", "A & B")
    assert shown.status == 0
    assert (
        "Does latency follow the multiply-accumulates? (measured)\n  FP32: from phi 0 to phi 1" in shown.out
    )
    assert "out/r.html: " in shown.out
    assert "<title>A &amp; B</title>" in (workplace / "out" / "r.html").read_text()


def test_json_that_is_not_a_record_is_skipped_in_a_folder_and_named(run, workplace):
    write_record(latency(engine(), 4.0), workplace / "records")
    (workplace / "records" / "package.json").write_text("{}")
    shown = run("report", "records")
    assert (shown.status, shown.err) == (
        0,
        "note: Skipped files that are not records: records/package.json.\n",
    )
    assert "It leaves out 1 JSON file that is not a record." in (workplace / "report.html").read_text()
    assert run("report", "records/package.json").code == "record-damaged"


def test_write_report_returns_the_sections(workplace):
    path = write_record(latency(engine(), 4.0), workplace)
    assert [each.name for each in write_report([path])] == ["work", "accuracy", "distributions"]
