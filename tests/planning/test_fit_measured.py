"""The largest phi, by what was recorded and what is measured here."""

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
from deploykit.planning import latency_source as clocks
from deploykit.planning.fit.fit import fit_phi
from deploykit.planning.fit.phi_grid import phi_grid
from deploykit.util.errors import DeployError, NothingFitsError


def recorded(on: str, **changes) -> Record:
    """B4 at 7 ms, on a GPU of that name."""
    machine = replace(MACHINE, kind="gpu", name=on)
    return latency(engine(phi=4, precision="fp16", **changes), 7.0, machine=machine)


def method(record: Record, **changes) -> Record:
    """The same, measured another way."""
    return replace(record, method=replace(record.method, **changes))


def test_a_record_counts_more_than_a_prediction(tmp_path):
    write_record(recorded("NVIDIA T4"), tmp_path)
    fit = fit_phi("T4", max_latency_ms=10, records=[tmp_path])
    fourth = fit.candidates[4]
    assert fourth.latency.evidence == "recorded"
    assert fourth.latency.high_ms == recorded("NVIDIA T4").percentile_ms(90).value
    assert {each.latency.evidence for each in fit.candidates if each.phi != 4} == {"predicted"}
    assert fit.remarks == ()
    assert fit_phi("T4", max_latency_ms=10, records=str(tmp_path)) == fit


def test_the_throughput_of_a_record_is_of_all_its_time_whatever_the_percentile(tmp_path):
    """A hundred calls of 5 ms and a hundred of 15 ms take two seconds: a hundred images a second."""
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


def test_the_percentile_of_records_is_said_beside_predictions(tmp_path, run):
    write_record(recorded("NVIDIA T4"), tmp_path / "mine")
    options = ("--max-latency", "10ms", "--records", "mine", "--percentile", "99")
    first = run("fit", "--gpu", "T4", *options).out.splitlines()[0]
    assert first.endswith("predicted for TensorRT, with a 90 % interval; recorded, p99")


def test_what_was_recorded_slower_than_a_larger_network_is_predicted_is_said_to_be(tmp_path):
    slow = replace(recorded("NVIDIA T4"), latency_ms=(50.0,) * 200)
    write_record(slow, tmp_path)
    (remark,) = fit_phi("T4", max_latency_ms=10, records=tmp_path).remarks
    assert remark.startswith("phi 4, recorded, is slower than phi 5, predicted: measure both")


def test_a_percentile_that_the_samples_do_not_bound_is_said_to_be_rough(tmp_path):
    write_record(recorded("NVIDIA T4"), tmp_path)
    (remark,) = fit_phi("T4", max_latency_ms=10, records=[tmp_path], percentile=99.99).remarks
    assert remark.startswith("Too few samples to bound p99.99 of phi 4:")


def test_a_record_of_another_machine_is_refused(tmp_path):
    path = write_record(recorded("NVIDIA A100-SXM4-40GB"), tmp_path)
    with pytest.raises(DeployError, match="was measured on NVIDIA A100-SXM4-40GB, which is no T4"):
        fit_phi("T4", max_latency_ms=10, records=[path])
    alone = fit_phi("T4", max_latency_ms=10, records=[tmp_path])  # of a folder, those of that GPU
    assert {each.latency.evidence for each in alone.candidates} == {"predicted"}
    with refuses("option-not-applicable"):
        fit_phi("cpu", max_latency_ms=10, records=[path])


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (method(recorded("NVIDIA T4"), scenario="offline"), "is of scenario offline and scope end-to-end"),
        (method(recorded("NVIDIA T4"), scope="device"), "is of scenario single-stream and scope device"),
        (method(recorded("NVIDIA T4"), scope="host"), "is of scenario single-stream and scope host"),
        (recorded("NVIDIA T4", classes=10), "a network with 10 classes, and EfficientNet has 1000"),
    ],
)
def test_a_record_of_no_such_latency_is_refused_as_a_file_and_passed_over_in_a_folder(
    tmp_path, other, sentence
):
    path = write_record(other, tmp_path)
    with pytest.raises(DeployError, match=sentence) as caught:
        fit_phi("T4", max_latency_ms=10, records=[path])
    assert str(path) in caught.value.problem
    fit = fit_phi("T4", max_latency_ms=10, records=[tmp_path])
    assert {each.latency.evidence for each in fit.candidates} == {"predicted"}


def test_a_record_of_as_many_classes_counts_wherever_it_comes_in_the_order(tmp_path):
    right = replace(recorded("NVIDIA T4", classes=1000), latency_ms=(3.0,) * 200)
    for number, record in enumerate((recorded("NVIDIA T4"), right, recorded("NVIDIA T4", classes=10))):
        write_record(replace(record, started=f"2026-01-0{number + 1}T00:00:00+00:00"), tmp_path)
    fourth = fit_phi("T4", max_latency_ms=10, records=[tmp_path]).candidates[4]
    assert (fourth.latency.evidence, fourth.latency.expected_ms) == ("recorded", 3.0)


def test_what_is_kept_of_a_network_with_other_classes_does_not_stand_for_it(tiny, monkeypatch):
    monkeypatch.setattr(measure, "SECONDS", 0.01)
    member = choose_member(tiny, phi=0)

    def measurements() -> int:
        clock = clocks.MeasuredLatency("cpu", percentile=50, folder=Path("records"))
        clock.latency(member, precision="fp32", batch=1)
        return clock.measurements

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
def test_a_record_of_a_gpu_of_ones_own_counts(tmp_path, name, aliases, machine):
    gpu = replace(find_gpu("T4"), name=name, aliases=aliases)
    path = write_record(recorded(machine), tmp_path)
    for records in (path, tmp_path):
        fourth = fit_phi(gpu, max_latency_ms=10, records=records).candidates[4]
        assert fourth.latency.evidence == "recorded"
    other = write_record(recorded("NVIDIA L4"), tmp_path / "others")
    with pytest.raises(DeployError, match=f"NVIDIA L4, which is no {name}"):
        fit_phi(gpu, max_latency_ms=10, records=other)


def _everything(family: Family, folder: Path) -> dict[float, float]:
    """Latency in ms by phi, of which each does three times the work of the one before."""
    clock = clocks.MeasuredLatency("cpu", percentile=50, folder=folder)
    return {
        phi: clock.latency(choose_member(family, phi=phi), precision="fp32", batch=1).expected_ms
        for phi in phi_grid(1.75, family.phi_range)
    }


def test_a_measured_fit_agrees_with_measuring_everything(tiny, monkeypatch):
    monkeypatch.setattr(measure, "SECONDS", 0.1)
    family = find_family(tiny)
    everything = _everything(family, Path("all"))
    for attempt in range(5):
        if list(everything.values()) == sorted(everything.values()):
            break  # as the search takes for granted; else the machine was busy while one was measured
        everything = _everything(family, Path(f"all-{attempt}"))
        shutil.rmtree("all")
        Path(f"all-{attempt}").rename("all")
    Path("all").rename("records")  # the same evidence for both, so that noise decides nothing
    for target_ms in (min(everything.values()) / 2, *(value * 1.001 for value in everything.values())):
        fit = fit_phi("cpu", max_latency_ms=target_ms, family=tiny, percentile=50, phi_step=1.75)
        fitting = [phi for phi, found in everything.items() if found <= target_ms]
        assert (fit.chosen.phi if fit.chosen else None) == max(fitting, default=None)
        assert len(fit.candidates) <= math.log2(len(everything)) + 2


def test_measuring_takes_as_long_as_the_percentile_does(tiny, monkeypatch):
    monkeypatch.setattr(measure, "SECONDS", 0.01)
    clock = clocks.MeasuredLatency("cpu", percentile=99, folder=Path("records"))
    clock.latency(choose_member(tiny, phi=0), precision="fp32", batch=1)
    (record,) = read_record_folder(Path("records")).records.values()
    assert len(record.latency_ms) >= 1000  # for ten of them to lie beyond


@pytest.mark.parametrize(
    ("took_s", "count", "percentile", "left_s", "seconds"),
    [
        (2, 200, 99, 18, 11),  # 1,000 at 10 ms, and a tenth more
        (2, 400, 90, 18, 4),  # there are a hundred, but alike: twice as many
        (8, 100, 90, 12, 12),
        (8, 100, 90, 11, None),
        (2, 100, 99, 18, None),  # 20 s at least
        (2, 10_000, 100, 18, None),  # no samples bound the largest
    ],
)
def test_a_run_too_short_for_its_percentile_is_made_longer_within_reason(
    took_s, count, percentile, left_s, seconds
):
    assert longer_duration_s(took_s, count, percentile, left_s=left_s) == (seconds and pytest.approx(seconds))


def test_what_was_measured_is_kept_and_not_measured_again(tiny, monkeypatch):
    monkeypatch.setattr(measure, "SECONDS", 0.1)
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
def test_where_none_is_accurate_enough_none_is_measured(workplace, options, fix):
    with pytest.raises(NothingFitsError, match="nothing was measured: no EfficientNet is") as caught:
        fit_phi("cpu", max_latency_ms=1e-3, **options)
    assert fix in caught.value.fix
    assert list(workplace.iterdir()) == []


def test_to_be_optimistic_of_a_measured_latency_is_said_to_change_nothing(tiny, monkeypatch):
    monkeypatch.setattr(measure, "SECONDS", 0.01)
    asked = {"family": tiny, "max_latency_ms": 1e-3, "phi_step": 7}
    (remark,) = fit_phi("cpu", **asked, optimistic=True).remarks
    assert remark.startswith("Of a measured latency the percentile decides")
    assert fit_phi("cpu", **asked).remarks == ()


def test_networks_that_are_not_accurate_enough_are_not_measured(workplace, monkeypatch):
    """Their accuracy was published."""
    monkeypatch.setattr(measure, "SECONDS", 0.01)
    monkeypatch.setattr(measure, "CALLS", 1)
    fit = fit_phi("cpu", max_latency_ms=1e-3, min_accuracy=0.79, family="efficientnet-lite", percentile=50)
    assert [each.phi for each in fit.candidates] == [3]
