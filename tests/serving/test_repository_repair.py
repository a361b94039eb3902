"""Fixes that repair a damaged repository when they are followed."""

import shutil
from dataclasses import replace

import pytest
from damaged_repositories import LABELS, OPTIONS, described, edit, rewrite
from refusals import refuses
from served import colours, contents

from deploykit.serving.repository.check import check_repository
from deploykit.serving.repository.write import write_repository
from deploykit.util.errors import DeployError

BROKEN = [
    ("colours/labels.txt", "red -> rose", "[repository-altered]"),
    ("colours/labels.txt", "lengthen", "[repository-altered]"),
    ("colours/labels.txt", "delete", "config.pbtxt names, is missing. [repository-file-missing]"),
    ("colours-image/labels.txt", "red -> rose", "[repository-altered]"),
    ("colours-image/labels.txt", "lengthen", "[repository-altered]"),
    ("colours-image/labels.txt", "delete", "config.pbtxt names, is missing. [repository-file-missing]"),
    ("colours-decode/1/preprocessing.json", "8 -> 12", "[repository-altered]"),
    ("colours-decode/1/preprocessing.json", "delete", "[repository-file-missing]"),
    ("colours/1/model.py", "import -> imprt", "[repository-altered]"),
    ("colours/1/model.py", "delete", "config.pbtxt names, is missing. [repository-file-missing]"),
    ("colours-decode/1/model.py", "lengthen", "[repository-altered]"),
    (
        "colours-decode/1/model.py",
        "delete",
        "config.pbtxt names, is missing. [repository-file-missing]",
    ),
    ("colours/1/model.cpu.engine.json", "delete", "[manifest-not-found]"),
    ("colours/1/model.cpu.engine", "delete", "[engine-not-found]"),
    ("colours-image", "delete", "the ensemble of colours-decode and colours, is missing"),
    ("colours-decode", "delete", "colours-image needs the model colours-decode, which is missing"),
    ("colours/config.pbtxt", "delete", "[repository-file-missing]"),
    ("colours/config.pbtxt", "empty", "its configuration says nothing."),
    ("colours/config.pbtxt", "dims: 8 -> dims: 9", "takes input FP32 (3, 8, 8); its"),
    ("colours/config.pbtxt", "max_batch_size: 32 -> max_batch_size: 640", "takes batches of up to 32; its"),
    ("colours-decode/config.pbtxt", "delete", "[repository-file-missing]"),
    ("colours-decode/config.pbtxt", "empty", "needs backend python; its configuration says nothing"),
    ("colours-decode/config.pbtxt", "dims: 8 -> dims: 9", "returns prepared FP32 (3, 8, 8); its"),
    ("colours-image/config.pbtxt", "delete", "[repository-file-missing]"),
    ("colours-image/config.pbtxt", "empty", "needs backend ensemble; its configuration says nothing"),
    ("colours-image/config.pbtxt", "dims: 3 -> dims: 4", "returns logits FP32 (3); its"),
]


@pytest.mark.parametrize(("path", "change", "problem"), BROKEN)
def test_damage_is_found_and_the_fixes_restore_every_file(models, follow, path, change, problem):
    before = contents(models)
    edit(change, models / path)
    findings = check_repository(models).findings
    assert any(problem in described(each) for each in findings), findings
    while findings:
        follow(findings[0].fix)
        left = check_repository(models).findings
        assert len(left) < len(findings)
        findings = left
    assert contents(models) == before


@pytest.mark.parametrize(
    ("path", "change", "problem"),
    [
        ("colours/config.pbtxt", "delete", "[repository-file-missing]"),
        ("colours/config.pbtxt", "empty", "its configuration says nothing."),
        ("colours/config.pbtxt", "dims: 8 -> dims: 9", "its configuration says"),
        ("colours/config.pbtxt", "max_batch_size: 32 -> max_batch_size: 640", "its configuration says 640"),
        ("colours/labels.txt", "delete", "labels.txt is missing. [repository-version-mismatch]"),
        ("colours-image/config.pbtxt", "delete", "[repository-file-missing]"),
        ("colours-image/config.pbtxt", "empty", "takes nothing, but the new engine takes image"),
        ("colours-decode/1/preprocessing.json", "8 -> 12", "disagrees with the new engine's manifest"),
    ],
)
def test_a_damaged_model_gets_no_new_version_until_the_fix_is_followed(models, follow, path, change, problem):
    before = contents(models)
    edit(change, models / path)
    with pytest.raises(DeployError) as caught:
        follow(f"deploykit serve --triton {models} ENGINE --name colours --backend python")
    assert problem in described(caught.value)
    follow(caught.value.fix)
    assert contents(models) == before


@pytest.mark.parametrize("model", ["colours", "colours-decode"])
def test_an_ensemble_is_rewritten_for_smaller_batches(models, follow, model):
    tuned = models / model / "config.pbtxt"
    rewrite(tuned, "max_batch_size: 32", "max_batch_size: 8")
    before = tuned.read_text()
    (finding,) = check_repository(models).findings
    assert f"colours-image takes larger batches than its step {model}" in finding.problem
    with refuses("repository-version-mismatch") as caught:
        follow(f"deploykit serve --triton {models} ENGINE --name colours --backend python")
    assert caught.value.fix == finding.fix
    follow(finding.fix)
    assert check_repository(models).findings == ()
    assert tuned.read_text() == before
    assert "max_batch_size: 8\n" in (models / "colours-image" / "config.pbtxt").read_text()


@pytest.mark.parametrize(
    "deleted",
    [
        ["colours/1"],
        ["colours/1", "colours-decode/config.pbtxt"],
        ["colours-decode/config.pbtxt", "colours-image/config.pbtxt"],
        ["colours-decode/config.pbtxt", "colours-image"],
        ["colours/config.pbtxt", "colours-decode/config.pbtxt", "colours-image/config.pbtxt"],
        ["colours/1/model.cpu.engine.json", "colours-decode/1", "colours-image/labels.txt"],
    ],
)
def test_any_one_fix_repairs_a_model_damaged_in_several_places(models, follow, tmp_path, deleted):
    before = contents(models)
    for each in deleted:
        edit("delete", models / each)
    shutil.copytree(models, tmp_path / "broken")
    for at in range(len(check_repository(models).findings)):
        shutil.rmtree(models)
        shutil.copytree(tmp_path / "broken", models)
        follow(check_repository(models).findings[at].fix)
        assert contents(models) == before


def test_the_writer_names_every_folder_to_move(models, follow):
    before = contents(models)
    shutil.rmtree(models / "colours")
    for each in ("colours-decode", "colours-image"):
        (models / each / "config.pbtxt").unlink()
    with pytest.raises(DeployError) as caught:
        follow(f"deploykit serve --triton {models} ENGINE --name colours --backend python")
    follow(caught.value.fix)
    assert contents(models) == before


def test_an_ensemble_without_its_engine_is_found(models, follow):
    shutil.rmtree(models / "colours")
    (finding,) = check_repository(models).findings
    assert "colours-image needs the model colours, which is missing" in finding.problem
    follow(finding.fix)
    assert check_repository(models).findings == ()


@pytest.mark.parametrize("gone", ["model.cpu.engine", "model.cpu.engine.json", "model.py", "*"])
def test_a_damaged_version_is_found_beside_a_valid_one(models, follow, tmp_path, gone):
    write_repository(models, [colours(tmp_path, max_batch=33, labels=LABELS)], OPTIONS)
    for each in (models / "colours" / "1").glob(gone):
        each.unlink()
    findings = check_repository(models).findings
    assert findings
    assert all(str(models / "colours" / "1") in each.problem for each in findings)
    follow(findings[0].fix)
    assert check_repository(models).findings == ()


def test_a_missing_configuration_is_restored_without_image_models(labelled_engine, follow, tmp_path):
    models = tmp_path / "models"
    write_repository(models, [labelled_engine], replace(OPTIONS, images=False))
    (models / "colours" / "config.pbtxt").unlink()
    (finding,) = check_repository(models).findings
    follow(finding.fix)
    assert check_repository(models).findings == ()
