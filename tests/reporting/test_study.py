"""Plan studies, and run them on small networks."""

import pytest
from refusals import refuses

from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.record_file import read_any_record
from deploykit.networks.families.registry import FAMILIES
from deploykit.networks.scaling import AXES, scale_for, stretched_axis
from deploykit.reporting.study import run_study
from deploykit.reporting.study.plan import plan_study

EFFICIENTNET, RESNET18 = FAMILIES["efficientnet"], FAMILIES["resnet18"]


def test_a_plan_has_latency_layers_and_throughput_per_phi_and_each_axis_alone():
    steps = plan_study(EFFICIENTNET, phis=[1, 0], precisions=["fp32", "int8"], batches=[8, 1])
    of_phi0 = [(step.precision, step.kind, step.batch) for step in steps if step.member.phi == 0]
    each = [("single-stream", 1), ("layers", 1), ("offline", 1), ("offline", 8)]
    assert of_phi0 == [(precision, *what) for precision in ("fp32", "int8") for what in each]
    alone = [step for step in steps if step.member.phi is None]
    # As much work as phi 1 along each axis, and the paper's three.
    assert sorted(str(stretched_axis(step.member.scale)) for step in alone) == sorted(2 * AXES)
    assert {(step.precision, step.kind, step.batch) for step in alone} == {("fp32", "single-stream", 1)}


def test_a_plan_goes_from_the_least_work_to_the_most():
    steps = plan_study(EFFICIENTNET, phis=[0, 1, 3], precisions=["fp32"], batches=[1])
    macs = [step.member.network().macs for step in steps]
    assert macs == sorted(macs)


def test_beyond_phi_4_no_axis_is_scaled_alone():
    steps = plan_study(EFFICIENTNET, phis=[5], precisions=["fp32"], batches=[1])
    assert all(step.member.phi is not None for step in steps)


def test_a_plan_includes_networks_with_a_published_accuracy():
    names = [
        step.member.name for step in plan_study(EFFICIENTNET, phis=[3], precisions=["fp32"], batches=[1])
    ]
    assert {"efficientnet-depth4", "efficientnet-width2", "efficientnet-side448"} <= set(names)


def test_a_family_with_one_published_member_is_scaled_by_the_formula():
    steps = plan_study(RESNET18, phis=RESNET18.default_phis, precisions=["fp32"], batches=[1], axes=())
    assert [step.member.name for step in steps if step.kind == "layers"] == [
        f"resnet18-formula-phi{phi}" for phi in range(4)
    ]


SMALL = {"gpu": "cpu", "phis": [0], "precisions": ["fp32"], "seconds": 0.01, "threads": 1}


def test_a_stopped_study_continues_where_it_stopped(tmp_path):
    seen = []

    def stop(each):
        seen.append(each.path)
        assert (each.number, each.count) == (len(seen), 4)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(tmp_path, batches=[1, 2], on_record=stop, **SMALL)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == set(seen)
    progress, numbers, there = [], [], []
    (tmp_path / "package.json").write_text("{}")
    study = run_study(
        tmp_path,
        batches=[1, 2],
        on_start=lambda had, count: there.append((had, count)),
        progress=lambda stage, done, total: progress.append((done, total)),
        on_record=lambda each: numbers.append((each.number, each.count)),
        **SMALL,
    )
    assert {path: path.read_bytes() for path in seen} == before
    assert (there, numbers) == ([(2, 4)], [(3, 4), (4, 4)])
    assert study.records[:2] == tuple(seen)
    assert study.records[2:] == study.written
    assert study.strays == (tmp_path / "package.json",)
    study.strays[0].unlink()
    assert progress[0][0] > 0  # the records that existed
    assert progress[-1][0] == progress[-1][1]
    records = [read_any_record(path) for path in sorted(tmp_path.iterdir())]
    assert {record.engine.scale for record in records} == {scale_for(0)}
    assert {record.engine.phi for record in records} == {0}
    assert sum(isinstance(record, LayerProfile) for record in records) == 1
    again = run_study(tmp_path, batches=[1, 2], **SMALL)
    assert (again.records, again.written) == (study.records, ())


def test_another_number_of_threads_is_a_new_measurement(tmp_path, tiny):
    arguments = {**SMALL, "family": tiny, "batches": [1]}
    run_study(tmp_path / "records", **arguments)
    assert len(run_study(tmp_path / "records", **{**arguments, "threads": 2}).written) == 3


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"gpu": "T4"}, "gpu-mismatch"),
        ({"gpu": "local"}, "gpu-not-found"),
        ({"gpu": "portable"}, "gpu-mismatch"),
        ({"precisions": ["fp16"]}, "precision-unsupported"),
        ({"phis": [8]}, "invalid-phi"),
        ({"family": "lenet"}, "unknown-family"),
        ({"batches": [0]}, "invalid-batch"),
        ({"threads": 0}, "invalid-thread-count"),
        ({"seconds": -1}, "invalid-duration"),
    ],
)
def test_invalid_arguments_are_rejected_and_nothing_is_written(tmp_path, arguments, code, monkeypatch):
    monkeypatch.setattr("deploykit.engine.targets.local_gpu", lambda: None)
    monkeypatch.setattr("deploykit.reporting.study.settings.local_gpu", lambda: None)
    with refuses(code):
        run_study(tmp_path / "records", **{**SMALL, **arguments})
    assert not (tmp_path / "records").exists()


def test_a_damaged_record_in_the_folder_is_rejected(tmp_path):
    (tmp_path / "record.json").write_text("{")
    with refuses("record-damaged"):
        run_study(tmp_path, **SMALL)
