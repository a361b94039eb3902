"""Arrange records for a report."""

from dataclasses import replace

import pytest
from records import MACHINE, engine, latency

from deploykit.bench.record_file import write_record
from deploykit.networks.scaling import Scale
from deploykit.reporting.report.report_data import (
    arrange_records,
    network_name,
    read_report_data,
    short_machine,
)
from deploykit.reporting.report.setup import Setup


def test_of_repeated_measurements_the_latest_is_shown_and_the_others_are_counted():
    once = latency(engine(), 4.0)
    again = latency(engine(), 5.0, started="2026-01-03T00:00:00.000+00:00")
    found = arrange_records([again, once, latency(engine(), 6.0, batch=8)])
    assert [each.percentile_ms(50).value for each in found.latencies] == pytest.approx([5.0, 6.0])
    assert found.superseded == 1


def test_each_setup_is_a_series_named_by_what_distinguishes_it():
    elsewhere = replace(MACHINE, name="Quipu")
    records = [
        latency(engine(), 4.0),
        latency(engine(precision="int8"), 3.0),
        latency(engine(), 2.0, machine=elsewhere),
    ]
    setups = arrange_records(records).setups
    assert [Setup.from_record(each).title(setups) for each in records] == [
        "FP32, Abacus 9000",
        "INT8, Abacus 9000",
        "FP32, Quipu",
    ]
    alone = arrange_records(records[:2]).setups
    assert [each.title(alone) for each in alone] == ["FP32", "INT8"]


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (engine(phi=3), "phi 3"),
        (engine(phi=2.5), "phi 2.5"),
        (engine(phi=0, side_px=64), "phi 0, 64 px"),
        (replace(engine(), phi=-2.0, rule="formula", side_px=168), "phi -2"),
        (replace(engine(), phi=50.0), "phi 50, 224 px"),  # no rule leads to this side
        (engine(phi=1, family="resnet18", rule="formula", side_px=256), "resnet18 phi 1"),
        (engine(phi=1, family="mine", rule="formula"), "mine phi 1, 240 px"),
        (engine(scale=Scale(depth=4.0, width=1.0, side_px=224)), "depth 4"),
        (engine(scale=Scale(depth=1.0, width=1.0, side_px=448)), "side 448 px"),
        (engine(family="unknown", phi=None, depth=None, width=None, name="mine.onnx"), "mine.onnx"),
        (engine(phi=None, depth=None, width=None, name="old.onnx"), "old.onnx"),
    ],
)
def test_a_networks_name_says_how_it_is_scaled(of, name):
    assert network_name(of) == name


def test_a_processors_short_name_has_no_trademarks():
    assert short_machine("Intel(R) Xeon(R) CPU E5-2670 v3 @ 2.30GHz") == "Intel Xeon E5-2670 v3"
    assert short_machine("AMD EPYC 7763 64-Core Processor") == "AMD EPYC 7763"


def test_records_are_read_from_files_and_folders(tmp_path):
    one = write_record(latency(engine(), 4.0), tmp_path)
    write_record(latency(engine(phi=1), 4.0), tmp_path)
    assert len(read_report_data([tmp_path, one]).latencies) == 2
    assert len(read_report_data([one]).latencies) == 1


def test_two_engines_of_one_network_are_two_series_but_a_renamed_engine_is_one():
    kinder = engine(precision="int8", sha256="of other layers", name="kinder.onnx")
    renamed = engine(precision="int8", name="renamed.onnx")
    records = [latency(each, ms) for each, ms in ((engine(precision="int8"), 3), (kinder, 4), (renamed, 5))]
    found = arrange_records(records)
    assert sorted(setup.title(found.setups) for setup in found.setups) == [
        "INT8, ONNX Runtime 1.31, kinder.onnx",
        "INT8, ONNX Runtime 1.31, phi0.int8.onnx",
    ]
    assert len(found.latencies) == 2
    assert found.superseded == 1


def test_machines_with_the_same_name_are_distinguished_by_their_cores():
    large = replace(MACHINE, cores=64)
    setups = arrange_records([latency(engine(), 4.0), latency(engine(), 1.0, machine=large)]).setups
    assert [each.title(setups) for each in setups] == ["FP32, 2 cores", "FP32, 64 cores"]
