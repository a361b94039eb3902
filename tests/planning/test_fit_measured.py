"""Find the largest phi with recorded and with measured latencies."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from records import MACHINE, engine, latency
from refusals import refuses

from deploykit.bench import measure_network as measure
from deploykit.bench.measure_network import longer_duration_s
from deploykit.bench.record import Record
from deploykit.bench.record_file import read_record_folder, write_record
from deploykit.gpu_catalog.gpus import find_gpu
from deploykit.networks.families.family import Family
from deploykit.networks.families.registry import find_family
from deploykit.networks.member import choose_member
from deploykit.planning.fit.fit import fit_phi
from deploykit.planning.fit.phi_grid import phi_grid
from deploykit.planning.measured_latency import MeasuredLatency
from deploykit.util.errors import NothingFitsError


def recorded(on: str, **changes) -> Record:
    """Return a record of B4 at 7 ms, on a GPU of that name."""
    machine = replace(MACHINE, kind="gpu", name=on)
    return latency(engine(phi=4, precision="fp16", **changes), 7.0, machine=machine)


def with_method(record: Record, **changes) -> Record:
    """Return the record with another method."""
    return replace(record, method=replace(record.method, **changes))


def test_a_record_takes_precedence_over_a_prediction(tmp_path):
    write_record(recorded("NVIDIA T4"), tmp_path)
    fit = fit_phi("T4", max_latency_ms=10, records=[tmp_path])
    fourth = fit.candidates[4]
    assert fourth.latency.evidence == "recorded"
    assert fourth.latency.high_ms == recorded("NVIDIA T4").percentile_ms(90).value
    assert {each.latency.evidence for each in fit.candidates if each.phi != 4} == {"predicted"}
    assert fit.notes == ()
    assert fit_phi("T4", max_latency_ms=10, records=str(tmp_path)) == fit


def test_a_records_throughput_counts_its_total_time_at_any_percentile(tmp_path):
    """A hundred calls of 5 ms and a hundred of 15 ms take two seconds: a hundred images per second."""
    uneven = replace(recorded("NVIDIA T4"), latency_ms=(5.0, 15.0) * 100)
    write_record(uneven, tmp_path)
    for percentile, latency_ms in ((40, 5), (99, 15)):
        options = {"records": tmp_path, "percentile": percentile}
        fourth = fit_phi("T4", min_images_per_s=90, **options).candidates[4]
        assert fourth.latency.expected_ms == latency_ms
        assert fourth.images_per_s == pytest.approx(100)
        assert fourth.fits
        lower_end = uneven.images_per_s.low
        assert fourth.latency.low_images_per_s == lower_end < 100
        between = (lower_end + 100) / 2
        assert fit_phi("T4", min_images_per_s=between, **options).candidates[4].misses == ("throughput",)
        assert fit_phi("T4", min_images_per_s=between, optimistic=True, **options).candidates[4].fits


def test_the_percentile_of_records_is_printed_next_to_predictions(tmp_path, run):
    write_record(recorded("NVIDIA T4"), tmp_path / "mine")
    options = ("--max-latency", "10ms", "--records", "mine", "--percentile", "99")
    first = run("fit", "--gpu", "T4", *options).out.splitlines()[0]
    assert first.endswith("predicted for TensorRT, with a 90 % interval; recorded, p99")


def test_a_record_slower_than_a_larger_predicted_network_gets_a_note(tmp_path):
    slow = replace(recorded("NVIDIA T4"), latency_ms=(50.0,) * 200)
    write_record(slow, tmp_path)
    (note,) = fit_phi("T4", max_latency_ms=10, records=tmp_path).notes
    assert note.startswith("phi 4 (recorded) is slower than phi 5 (predicted)")


def test_a_percentile_with_too_few_samples_gets_a_note(tmp_path):
    write_record(recorded("NVIDIA T4"), tmp_path)
    (note,) = fit_phi("T4", max_latency_ms=10, records=[tmp_path], percentile=99.99).notes
    assert "too few samples to bound p99.99 at phi 4:" in note


def test_a_record_from_another_gpu_is_rejected(tmp_path):
    path = write_record(recorded("NVIDIA A100-SXM4-40GB"), tmp_path)
    with refuses("record-wrong-gpu") as caught:
        fit_phi("T4", max_latency_ms=10, records=[path])
    assert "NVIDIA A100-SXM4-40GB" in caught.value.problem
    alone = fit_phi(
        "T4", max_latency_ms=10, records=[tmp_path]
    )  # of a folder, only records of that GPU count
    assert {each.latency.evidence for each in alone.candidates} == {"predicted"}
    with refuses("option-not-applicable"):
        fit_phi("cpu", max_latency_ms=10, records=[path])


@pytest.mark.parametrize(
    ("other", "code"),
    [
        (with_method(recorded("NVIDIA T4"), scenario="offline"), "record-wrong-kind"),
        (with_method(recorded("NVIDIA T4"), scope="device"), "record-wrong-kind"),
        (with_method(recorded("NVIDIA T4"), scope="host"), "record-wrong-kind"),
        (recorded("NVIDIA T4", classes=10), "record-wrong-network"),
    ],
)
def test_an_unsuitable_record_is_rejected_as_a_file_and_skipped_in_a_folder(tmp_path, other, code):
    path = write_record(other, tmp_path)
    with refuses(code) as caught:
        fit_phi("T4", max_latency_ms=10, records=[path])
    assert str(path) in caught.value.problem
    fit = fit_phi("T4", max_latency_ms=10, records=[tmp_path])
    assert {each.latency.evidence for each in fit.candidates} == {"predicted"}


def test_the_record_with_the_right_number_of_classes_counts_in_any_order(tmp_path):
    right = replace(recorded("NVIDIA T4", classes=1000), latency_ms=(3.0,) * 200)
    for number, record in enumerate((recorded("NVIDIA T4"), right, recorded("NVIDIA T4", classes=10))):
        write_record(replace(record, started=f"2026-01-0{number + 1}T00:00:00+00:00"), tmp_path)
    fourth = fit_phi("T4", max_latency_ms=10, records=[tmp_path]).candidates[4]
    assert (fourth.latency.evidence, fourth.latency.expected_ms) == ("recorded", 3.0)


def test_a_kept_record_with_another_number_of_classes_is_not_reused(tiny, monkeypatch):
    monkeypatch.setattr(measure, "MIN_SECONDS", 0.01)
    member = choose_member(tiny, phi=0)

    def measurements() -> int:
        source = MeasuredLatency("cpu", percentile=50, folder=Path("records"))
        source.find_latency(member, precision="fp32", batch=1)
        return source.measurements

    assert (measurements(), measurements()) == (1, 0)
    ((path, record),) = read_record_folder(Path("records")).records.items()
    path.unlink()
    write_record(replace(record, engine=replace(record.engine, classes=10)), Path("records"))
    assert (measurements(), measurements()) == (1, 0)


@pytest.mark.parametrize(
    ("name", "aliases", "machine"),
    [
        ("Mine", (), "NVIDIA Mine"),
        ("Mine", ("Own 9000",), "NVIDIA Own-9000"),
        ("A100", (), "NVIDIA A100-SXM4-40GB"),  # which people mean by A100
    ],
)
def test_a_record_counts_for_a_gpu_that_the_user_described(tmp_path, name, aliases, machine):
    gpu = replace(find_gpu("T4"), name=name, aliases=aliases)
    path = write_record(recorded(machine), tmp_path)
    for records in (path, tmp_path):
        fourth = fit_phi(gpu, max_latency_ms=10, records=records).candidates[4]
        assert fourth.latency.evidence == "recorded"
    other = write_record(recorded("NVIDIA L4"), tmp_path / "others")
    with refuses("record-wrong-gpu"):
        fit_phi(gpu, max_latency_ms=10, records=other)


def _measure_all(family: Family, folder: Path) -> dict[float, float]:
    """Return the latency in ms of each phi; each has three times the work of the one before."""
    source = MeasuredLatency("cpu", percentile=50, folder=folder)
    return {
        phi: source.find_latency(choose_member(family, phi=phi), precision="fp32", batch=1).expected_ms
        for phi in phi_grid(1.75, family.phi_range)
    }


def test_a_measured_fit_agrees_with_measuring_measure_all(tiny, monkeypatch):
    monkeypatch.setattr(measure, "MIN_SECONDS", 0.1)
    family = find_family(tiny)
    everything = _measure_all(family, Path("all"))
    for attempt in range(5):
        if list(everything.values()) == sorted(everything.values()):
            break  # as the search assumes; otherwise the machine was busy during one measurement
        everything = _measure_all(family, Path(f"all-{attempt}"))
        shutil.rmtree("all")
        Path(f"all-{attempt}").rename("all")
    Path("all").rename("records")  # both use the same records, so that noise decides nothing
    for target_ms in (min(everything.values()) / 2, *(value * 1.001 for value in everything.values())):
        fit = fit_phi("cpu", max_latency_ms=target_ms, family=tiny, percentile=50, phi_step=1.75)
        fitting = [phi for phi, found in everything.items() if found <= target_ms]
        assert (fit.chosen.phi if fit.chosen else None) == max(fitting, default=None)
        assert len(fit.candidates) <= math.log2(len(everything)) + 2


def test_a_measurement_has_enough_samples_for_its_percentile(tiny, monkeypatch):
    monkeypatch.setattr(measure, "MIN_SECONDS", 0.01)
    source = MeasuredLatency("cpu", percentile=99, folder=Path("records"))
    source.find_latency(choose_member(tiny, phi=0), precision="fp32", batch=1)
    (record,) = read_record_folder(Path("records")).records.values()
    assert len(record.latency_ms) >= 1000  # so that ten of them lie beyond


@pytest.mark.parametrize(
    ("took_s", "count", "percentile", "left_s", "seconds"),
    [
        (2, 200, 99, 18, 11),  # 1,000 at 10 ms, and a tenth more
        (2, 400, 90, 18, 4),  # there are a hundred, but correlated: twice as many
        (8, 100, 90, 12, 12),
        (8, 100, 90, 11, None),
        (2, 100, 99, 18, None),  # 20 s at least
        (2, 10_000, 100, 18, None),  # no samples bound the largest
    ],
)
def test_a_run_too_short_for_its_percentile_is_repeated_for_longer_within_a_limit(
    took_s, count, percentile, left_s, seconds
):
    assert longer_duration_s(took_s, count, percentile, left_s=left_s) == (seconds and pytest.approx(seconds))


def test_a_measurement_is_kept_and_not_repeated(tiny, monkeypatch):
    monkeypatch.setattr(measure, "MIN_SECONDS", 0.1)
    first = fit_phi("cpu", max_latency_ms=1000, family=tiny, phi_step=3.5)
    assert len(list(Path("records").glob("*.json"))) == len(first.candidates) == 2
    assert fit_phi("cpu", max_latency_ms=1000, family=tiny, phi_step=3.5) == first
    assert len(list(Path("records").glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"min_accuracy": 0.95}, "give --min-accuracy 84.3%"),
        ({"min_accuracy": 0.78, "axis": "width"}, "77.1%"),
    ],
)
def test_nothing_is_measured_if_no_network_is_accurate_enough(workplace, options, fix):
    with refuses("nothing-fits") as caught:
        fit_phi("cpu", max_latency_ms=1e-3, **options)
    assert isinstance(caught.value, NothingFitsError)
    assert fix in caught.value.fix
    assert list(workplace.iterdir()) == []


def test_optimistic_has_no_effect_on_a_measured_latency_and_a_note_says_so(tiny, monkeypatch):
    monkeypatch.setattr(measure, "MIN_SECONDS", 0.01)
    arguments = {"family": tiny, "max_latency_ms": 1e-3, "phi_step": 7}
    (note,) = fit_phi("cpu", **arguments, optimistic=True).notes
    assert note.startswith("--optimistic has no effect")
    assert fit_phi("cpu", **arguments).notes == ()


def test_networks_that_are_not_accurate_enough_are_not_measured(workplace, monkeypatch):
    """Their accuracy is published, so that it needs no measurement."""
    monkeypatch.setattr(measure, "MIN_SECONDS", 0.01)
    monkeypatch.setattr(measure, "MIN_CALLS", 1)
    fit = fit_phi("cpu", max_latency_ms=1e-3, min_accuracy=0.79, family="efficientnet-lite", percentile=50)
    assert [each.phi for each in fit.candidates] == [3]
