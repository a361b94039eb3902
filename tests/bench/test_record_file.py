"""Records on disk."""

import json
from pathlib import Path

import pytest
from refusals import refuses

from deploykit.bench.accuracy_record import AccuracyRecord
from deploykit.bench.benchmark import benchmark
from deploykit.bench.layers.layer_profile import LayerProfile, profile_engine
from deploykit.bench.record import Record
from deploykit.bench.record_file import read_any_record, read_record, read_record_folder, write_record
from deploykit.engine.build import build_engine
from deploykit.engine.shapes import BatchRange
from deploykit.stats.proportion import Proportion
from deploykit.util.json_io import to_json, to_sealed_json


@pytest.fixture(scope="module")
def engine(random_b0, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("cpu") / "model.onnx"
    return build_engine(
        onnx=random_b0.path, gpu="cpu", batches=[BatchRange(min=1, opt=2, max=4)], output=output
    ).path


@pytest.fixture(scope="module")
def measured(engine) -> Record:
    return benchmark(engine, seconds=0.05, samples=10, threads=1)


@pytest.fixture(scope="module")
def profile(engine) -> LayerProfile:
    return profile_engine(engine, threads=1)


ACCURACY = AccuracyRecord(
    model="model.onnx",
    sha256="0" * 64,
    onnx_sha256=None,
    precision="fp32",
    data="photos",
    images=100,
    data_sha256="1" * 64,
    top1=Proportion(value=0.7, low=0.6, high=0.8),
    ran_by="ONNX Runtime",
    started="2026-01-02T03:04:05.678+00:00",
)


def test_a_record_is_read_back_as_it_was_written(measured, tmp_path):
    path = write_record(measured, tmp_path / "records")
    assert read_record(path) == measured
    assert path.name.startswith("model.onnx.single-stream.b2.20")


def test_a_record_is_not_replaced(measured, tmp_path):
    path = write_record(measured, tmp_path)
    before = path.read_bytes()
    with refuses("file-exists"):
        write_record(measured, tmp_path)
    assert path.read_bytes() == before


def altered(measured: Record, **changes) -> str:
    """Return a modified record with a valid seal."""
    return to_sealed_json({**json.loads(to_json(measured)), **changes})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"batch": 2', '"batch": 3'),
        lambda text: text.replace('"latency_ms": [', '"latency_ms": [NaN, '),
        lambda text: "",
        lambda text: "[]",
        lambda text: "\x00\xff",
    ],
)
def test_a_damaged_record_is_refused(measured, tmp_path, spoil):
    path = write_record(measured, tmp_path)
    path.write_text(spoil(path.read_text()))
    with refuses("record-damaged"):
        read_record(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "gossip"},
        {"kind": "layers"},
        {"format": None},
        {"latency_ms": []},
        {"latency_ms": [-1.0]},
        {"seconds": 0},
        {"method": {"scenario": "multi-stream", "batch": 1}},
        {"method": {"scenario": "server", "batch": 1, "max_latency_ms": 5}},
        {"seconds": 1e300},
    ],
)
def test_a_record_with_invalid_values_is_refused(measured, tmp_path, changes):
    path = tmp_path / "record.json"
    path.write_text(altered(measured, **changes))
    with refuses("record-damaged") as caught:
        read_record(path)
    assert "\n" not in caught.value.problem
    path.write_text(altered(measured))
    assert read_record(path) == measured


def test_a_huge_file_is_refused_without_being_read(tmp_path):
    path = tmp_path / "record.json"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)
    with refuses("record-too-large"):
        read_record(path)


def test_a_record_too_large_to_be_read_is_not_written(measured, tmp_path, monkeypatch):
    monkeypatch.setattr("deploykit.bench.record_file.MAX_RECORD_BYTES", 2**10)
    with refuses("record-too-large"):
        write_record(measured, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_file_is_reported():
    with refuses("file-unreadable"):
        read_record("/proc/self/mem")


def test_other_json_in_a_folder_is_skipped_but_a_damaged_record_is_not(measured, tmp_path):
    path = write_record(measured, tmp_path)
    stray = tmp_path / "package.json"
    stray.write_text('{"name": "mine"}')
    found = read_record_folder(tmp_path)
    assert (found.records, found.strays) == ({path: measured}, (stray,))
    for damaged in ('{"format": 2, "kind": "latency"}', "{"):
        stray.write_text(damaged)
        with refuses("record-damaged"):
            read_record_folder(tmp_path)


@pytest.mark.parametrize("format_of", ["profile", "accuracy"])
def test_older_records_of_the_same_format_can_be_read(profile, tmp_path, format_of):
    record = profile if format_of == "profile" else ACCURACY
    fields = json.loads(to_json(record))
    for since in ("before", "after", "images_sha256"):
        fields.pop(since, None)
    path = tmp_path / "record.json"
    path.write_text(to_sealed_json(fields))
    assert (
        read_any_record(path).run_caveats == ()
        if format_of == "profile"
        else read_any_record(path) == ACCURACY
    )


def test_the_committed_records_can_be_read():
    folder = Path(__file__).parents[2] / "engines" / "results" / "cpu"
    if not folder.is_dir():
        pytest.skip("the committed records are not beside the tests")
    assert len(read_record_folder(folder).records) >= 100


def test_a_missing_record_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.json"):
        with refuses("record-not-found"):
            read_record(path)


def test_layer_profiles_and_accuracy_are_records(profile, tmp_path):
    for record, name in (
        (profile, "model.onnx.layers.b2.20"),
        (ACCURACY, "model.onnx.accuracy.20260102T0304"),
    ):
        path = write_record(record, tmp_path)
        assert path.name.startswith(name)
        assert read_any_record(path) == record
        with refuses("record-wrong-kind"):
            read_record(path)


def test_a_layer_profile_contains_the_engine_and_the_machine(profile, engine, measured):
    assert profile.engine == measured.engine
    assert profile.machine == measured.machine
    assert (profile.batch, profile.threads, profile.kind) == (2, 1, "layers")
    assert profile.before.moment_s < profile.after.moment_s
    assert profile.before.own_s < profile.after.own_s
    assert all(layer.low_ms <= layer.ms <= layer.high_ms for layer in profile.layers if layer.low_ms)
    assert sum(layer.low_ms is not None for layer in profile.layers) > len(profile.layers) / 2
    assert sum(layer.macs for layer in profile.layers) == 2 * profile.engine.macs


@pytest.mark.parametrize("older", [{"format": 1}, {"format": 3}])
def test_a_record_of_another_format_is_refused_with_its_number(measured, tmp_path, older):
    path = tmp_path / "record.json"
    fields = {**json.loads(to_json(measured)), **older}
    if older["format"] == 1:
        del fields["kind"]  # which format 1 did not have
    path.write_text(to_sealed_json(fields))
    with refuses("record-format-unsupported"):
        read_record(path)


@pytest.mark.parametrize(
    "absurd",
    [{"phi": 1e300}, {"classes": 0}, {"side_px": 0}, {"macs": 10**30}, {"depth": 0}, {"width": 1e300}],
)
def test_a_record_of_an_invalid_engine_is_refused(measured, tmp_path, absurd):
    path = tmp_path / "record.json"
    path.write_text(altered(measured, engine={**json.loads(to_json(measured.engine)), **absurd}))
    with refuses("record-damaged"):
        read_record(path)


@pytest.mark.parametrize("ms", [0.0, -1.0])
def test_layer_times_of_zero_are_refused(profile, tmp_path, ms):
    path = tmp_path / "record.json"
    fields = json.loads(to_json(profile))
    path.write_text(to_sealed_json({**fields, "layers": [{**layer, "ms": ms} for layer in fields["layers"]]}))
    with refuses("record-damaged"):
        read_any_record(path)
