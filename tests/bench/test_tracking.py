"""Weights & Biases offline: the contents of a run's file."""

import json
import struct
from pathlib import Path

import pytest
from records import engine, latency, layer, profile
from refusals import refuses

from deploykit.bench.record_file import write_record
from deploykit.bench.tracking import log_to_wandb

wandb = pytest.importorskip("wandb", reason="needs wandb: pip install '.[wandb]'")
pytestmark = pytest.mark.integration
_BLOCK, _HEADING, _FILE_HEADING = 32768, 7, 7


@pytest.fixture(autouse=True)
def offline(workplace, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(workplace))
    yield
    wandb.teardown()  # it reads its settings once a process


def logged(run_folder: str) -> list:
    """Return the protobuf messages of a run's file, which is in LevelDB's log format after a header."""
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its service has written all then
    (path,) = Path(run_folder).glob("run-*.wandb")
    data, at, parts, found = path.read_bytes(), _FILE_HEADING, b"", []
    while at + _HEADING <= len(data):
        if _BLOCK - at % _BLOCK < _HEADING:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + _HEADING : at + _HEADING + length]
        at += _HEADING + length
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


def values(updates) -> dict:
    return {each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in updates}


def summary_of(found: list) -> dict:
    updates = [
        update
        for each in found
        if each.WhichOneof("record_type") == "summary"
        for update in each.summary.update
    ]
    return values(updates)


def test_a_record_is_logged_as_a_run_with_figures_method_and_file(tmp_path):
    record = latency(engine(phi=3), 16.0)
    path = write_record(record, tmp_path / "records")
    found = logged(log_to_wandb(record, "efficientnets", path=path))
    (run,) = [each.run for each in found if each.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name) == ("efficientnets", "phi3.fp32.onnx.single-stream.b1")
    configuration = values(run.config.update)
    assert configuration["engine"]["phi"] == 3
    assert configuration["method"]["scenario"] == "single-stream"
    assert configuration["machine"]["name"].startswith("Abacus")
    assert "latency_ms" not in configuration
    summary = summary_of(found)
    assert summary["p50_ms"] == pytest.approx(16.0)
    assert summary["p50_ms_low"] <= 16 <= summary["p50_ms_high"]
    assert summary["images_per_s"] == pytest.approx(record.images_per_s.value)
    (history,) = [each.history for each in found if each.WhichOneof("record_type") == "history"]
    assert sum(values(history.item)["latency_ms/values"]) == len(record.latency_ms)
    (artifact,) = [
        each.artifact
        for each in found
        if each.WhichOneof("record_type") == "artifact" and each.artifact.type == "record"
    ]
    assert [entry.path for entry in artifact.manifest.contents] == [path.name]


def test_layers_are_logged_as_a_table_by_block(tmp_path):
    record = profile(engine(), [layer("conv_stem", "Conv", 1.5), layer("conv_head", "Conv", 2.5)])
    found = logged(log_to_wandb(record, "efficientnets"))
    assert summary_of(found)["layers_ms"] == pytest.approx(4.0)
    (history,) = [each.history for each in found if each.WhichOneof("record_type") == "history"]
    assert values(history.item)["blocks/nrows"] == 1


def test_an_unreachable_server_or_a_missing_login_is_reported(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with refuses("wandb-failed") as caught:
        log_to_wandb(latency(engine(), 4.0), "efficientnets")
    assert "WANDB_MODE=offline" in caught.value.fix
    assert "\n" not in caught.value.problem


def test_invalid_wandb_settings_are_reported(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "bogus")
    with refuses("wandb-failed") as caught:
        log_to_wandb(latency(engine(), 4.0), "efficientnets")
    assert "\n" not in caught.value.problem


def test_bench_and_study_log_what_they_measure(run, workplace):
    run("export", "--phi", "0", "--side", "64")
    run("build-engine", "--gpu", "cpu")
    bench = ("bench", "engines/efficientnet-phi0/model.fp32.cpu.onnx", "--seconds", "0.01")
    shown = run(*bench, "--batch", "1,2", "--wandb", "efficientnets")
    assert shown.status == 0
    assert shown.out.count("wandb: ") == 2
    assert run(*bench[:2], "--layers", "--wandb", "efficientnets").out.count("wandb: ") == 1
    study = (
        "study",
        "--gpu",
        "cpu",
        "--phi",
        "0",
        "--precision",
        "fp32",
        "--batch",
        "1",
        "--seconds",
        "0.01",
    )
    assert run(*study, "--wandb", "efficientnets").out.count("wandb: ") == 3
    again = run(*study, "--wandb", "efficientnets")
    assert again.out.count("wandb: ") == 0
    assert "note: 3 of 3 records existed before and are not logged to Weights & Biases." in again.err
    assert len(list((workplace / "wandb").glob("offline-run-*"))) == 6
