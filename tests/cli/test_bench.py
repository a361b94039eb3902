"""bench and compare from the command line."""

import json
import re
from pathlib import Path

import pytest


def test_scenarios_are_measured_recorded_and_compared(run):
    run("export", "--phi", "0", "--side", "32")
    run("build-engine", "--gpu", "cpu")
    bench = ("bench", "engines/efficientnet-phi0/model.fp32.cpu.onnx", "--seconds", "0.1", "-o", "records")
    assert run(*bench, "--batch", "1,8").status == 0
    throughput = run(*bench, "--scenario", "offline", "--batch", "8")
    assert re.search(r"^8 +[\d.]+ images/s \([\d.]+ to [\d.]+\)", throughput.out, re.MULTILINE)
    served = run(*bench, "--scenario", "server", "--batch", "4", "--max-latency", "500ms")
    assert re.search(r"^up to 4 +[\d.]+ images/s +[\d.]+ images/s", served.out, re.MULTILINE)
    before = set(Path("records").iterdir())
    refused = run(*bench, "--batch", "1,65")
    assert (refused.status, set(Path("records").iterdir())) == (2, before)
    Path("file").write_text("in the way")
    assert run(*bench[:-1], "file").code == "output-not-a-folder"
    one, eight = sorted(map(str, Path("records").glob("*single-stream.b*.json")))
    refused = run("compare", one, eight)
    assert (refused.status, refused.code) == (2, "records-not-comparable")
    assert "batch (1 and 8)" in refused.err
    assert "--ignore batch" in refused.err
    compared = run("compare", one, eight, "--ignore", "batch")
    assert compared.status == 0
    assert re.search(r"^second / first: [\d.]+ \([\d.]+ to [\d.]+\)", compared.out, re.MULTILINE)
    fields = json.loads(run("compare", one, eight, "--ignore", "batch", "--json").out)
    assert fields["clear"]
    assert fields["comparison"]["ignored"] == ["batch"]
    assert set(fields["remarks"]) == {"first", "second"}
    assert any("is rough" in remark for remark in fields["remarks"]["first"])


def test_layers_are_recorded(run):
    run("export", "--phi", "0", "--side", "64")
    run("build-engine", "--gpu", "cpu")
    engine = "engines/efficientnet-phi0/model.fp32.cpu.onnx"
    shown = run("bench", engine, "--layers", "--batch", "1,2", "-o", "records")
    assert shown.status == 0
    paths = sorted(Path("records").glob("model.fp32.cpu.onnx.layers.b*.json"))
    assert [f"record: {path}" in shown.out for path in paths] == [True, True]


def test_a_study_prints_what_it_measures_and_resumes(run):
    study = (
        "study",
        "--gpu",
        "cpu",
        "--phi",
        "0",
        "--precision",
        "fp32",
        "--batch",
        "2",
        "--seconds",
        "0.01",
    )
    first = run(*study)
    assert first.status == 0
    assert re.search(
        r"^\[1/3\] records/efficientnet-phi0\.fp32\.cpu\.onnx\.single-stream\.b1\.\S+: p50 [\d.]+ ms",
        first.out,
        re.MULTILINE,
    )
    assert [line[:5] for line in first.out.splitlines() if line.startswith("[")] == [
        "[1/3]",
        "[2/3]",
        "[3/3]",
    ]
    assert first.out.splitlines()[-1] == "3 of 3 records are in records, 3 of them new"
    again = run(*study)
    assert (again.status, again.out) == (0, "")
    assert "all 3 records" in again.err
    told = json.loads(run(*study, "--json").out)
    assert sorted(told["records"]) == sorted(map(str, Path("records").iterdir()))
    assert told["written"] == []
    for wrong in (("--phi", "0,b"), ("--precision", "fp8"), ("--batch", ""), ("--gpu", "T4")):
        refused = run(*study, *wrong)
        assert (refused.status, refused.out) == (2, "")


def test_a_percentile_of_too_few_calls_is_printed_and_kept_with_an_open_interval(run):
    run("export", "--phi", "0", "--side", "32")
    run("build-engine", "--gpu", "cpu")
    engine = "engines/efficientnet-phi0/model.fp32.cpu.onnx"
    bench = ("bench", engine, "--seconds", "0.01", "--samples", "300")
    shown = run(*bench).out
    number = r"[\d.]+ ms"
    interval = rf"{number} \([\d.]+ to [\d.]+\)"
    assert re.search(rf"^\d+ +{interval} +{interval} +~{number} \([\d.]+ or more\) ", shown, re.MULTILINE)
    record = json.loads(run("bench", engine, "--seconds", "0.01", "--samples", "300", "--json").out)[
        "records"
    ][0]
    assert record["p99_ms"]["high"] is None
    assert record["p50_ms"]["high"] is not None


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--layers", "--seconds", "3"), "option-not-applicable"),
        (("--layers", "--samples", "3"), "option-not-applicable"),
        (("--search-seconds", "3"), "option-not-applicable"),
        (("--scenario", "server", "--max-latency", "9ms", "--search-seconds", "0"), "invalid-duration"),
        (("--scenario", "server", "--max-latency", "9ms", "--samples", "0"), "invalid-sample-count"),
        (("--scenario", "server", "--max-latency", "1us"), "latency-unattainable"),
    ],
)
def test_options_work_or_are_refused(run, options, code):
    run("export", "--phi", "0", "--side", "32")
    run("build-engine", "--gpu", "cpu")
    refused = run("bench", "engines/efficientnet-phi0/model.fp32.cpu.onnx", *options)
    assert (refused.status, refused.out, refused.code) == (2, "", code)
