"""Repositories that disagree with their engines, and the fixes that repair them."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refuses
from served import colours, contents

from deploykit.serving.repository.check import Finding, check_repository
from deploykit.serving.repository.options import ModelOptions
from deploykit.serving.repository.write import write_repository
from deploykit.util.errors import DeployError

OPTIONS = ModelOptions(name="colours", backend="python")
LABELS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    return colours(tmp_path_factory.mktemp("engine"), labels=LABELS)


@pytest.fixture
def models(engine, tmp_path) -> Path:
    write_repository(tmp_path / "models", [engine], OPTIONS)
    return tmp_path / "models"


def rewrite(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def described(finding: Finding | DeployError) -> str:
    """Return the sentence with its code, as the command line prints errors."""
    return f"{finding.problem} [{finding.code}]"


NAMED = 'backend: "python" default_model_filename: "{}"'
PLANS = 'backend: "python" platform: "tensorrt_plan"'


@pytest.mark.parametrize(
    ("model", "before", "after", "problem"),
    [
        ("colours", 'name: "input"', 'name: "images"', "takes input FP32 (3, 8, 8); its"),
        ("colours", "dims: 8", "dims: 9", "takes input FP32 (3, 8, 8); its"),
        ("colours", "TYPE_FP32", "TYPE_FP16", "FP16 (3, 8, 8)"),
        ("colours", "max_batch_size: 32", "max_batch_size: 64", "batches of up to 32"),
        ("colours", "preferred_batch_size: 8", "preferred_batch_size: 48", "a preferred batch size of 48"),
        ("colours", 'name: "colours"', 'name: "roses"', "names the model 'roses'"),
        ("colours", "max_batch_size", "max_batch_sise", "[repository-config-invalid]"),
        ("colours", 'backend: "python"', NAMED.format("../x"), "[repository-path-escapes]"),
        ("colours", 'backend: "python"', NAMED.format("x"), "[repository-file-missing]"),
        (
            "colours",
            'backend: "python"',
            NAMED.format("model.cpu.engine"),
            "the model file model.py; its",
        ),
        (
            "colours",
            'backend: "python"',
            'backend: "nope"',
            "onnxruntime or python; its configuration says nope",
        ),
        (
            "colours",
            'backend: "python"',
            'backend: "onnxruntime"',
            "the model file model.cpu.engine; its",
        ),
        ("colours", 'backend: "python"', PLANS, "its configuration says python and tensorrt"),
        (
            "colours",
            "max_batch_size: 32",
            "max_batch_size: 0",
            "batches of up to 32; its configuration says 0",
        ),
        ("colours-decode", 'backend: "python"', PLANS, "its configuration says python and tensorrt"),
        ("colours-decode", 'backend: "python"', NAMED.format("../x"), "the model file model.py; its"),
        ("colours-decode", "max_batch_size: 32", "max_batch_size: 0", "its configuration says 0"),
        ("colours-image", '"colours-decode"', '"roses"', "needs the model roses, which is missing"),
        ("colours-image", 'key: "input"', 'key: "x"', "needs the tensor x of colours"),
    ],
)
def test_a_configuration_that_disagrees_is_found(models, model, before, after, problem):
    rewrite(models / model / "config.pbtxt", before, after)
    findings = check_repository(models).findings
    assert any(problem in described(each) for each in findings), findings


def edit(change: str, path: Path) -> None:
    if change == "delete":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif change == "empty":
        path.write_text("")
    elif change == "lengthen":
        path.write_text(path.read_text() + "violet\n")
    else:
        rewrite(path, *change.split(" -> "))


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


@pytest.fixture
def follow(engine):
    """Follow a fix: move or remove folders, and write the repository."""

    def do(fix: str) -> None:
        if folder := re.search(r"(?:move|remove) (.+?)( out of|,? elsewhere|,? then|$)", fix):
            for each in re.split(", | and ", folder[1]):
                shutil.rmtree(each)
        if command := re.search(
            r"deploykit serve --triton (\S+) ENGINE --name (\S+)( --backend python)?", fix
        ):
            backend = "python" if command[3] else None
            write_repository(command[1], [engine], ModelOptions(name=command[2], backend=backend))
        assert folder or command, fix

    return do


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


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("colours/config.pbtxt", "count: 1 -> count: 2"),
        ("colours/config.pbtxt", "max_batch_size: 32 -> max_batch_size: 32\nresponse_cache { enable: true }"),
        ("colours/config.pbtxt", "num_versions: 1 -> num_versions: 2"),
        ("colours/config.pbtxt", 'label_filename: "labels.txt" -> '),
        ("colours-decode/config.pbtxt", "count: 2 -> count: 4"),
    ],
)
def test_a_configuration_may_be_tuned(models, path, change):
    edit(change, models / path)
    assert check_repository(models).findings == ()


@pytest.mark.parametrize(
    ("before", "after", "problems"),
    [
        ('backend: "onnxruntime"', "", []),
        ('platform: "onnxruntime_onnx"', "", []),
        ('default_model_filename: "model.onnx"', "", []),
        ('backend: "onnxruntime"', 'backend: "python"', ["python and onnxruntime"]),
        (
            '"model.onnx"',
            '"model.onnx.json"',
            ["[manifest-not-found]", "the model file model.onnx; its"],
        ),
    ],
)
def test_equivalent_configurations_pass_and_wrong_ones_are_found(engine, tmp_path, before, after, problems):
    models = tmp_path / "models"
    write_repository(models, [engine], ModelOptions(name="colours"))
    rewrite(models / "colours" / "config.pbtxt", before, after)
    findings = check_repository(models).findings
    assert len(findings) == len(problems)
    assert all(problem in described(found) for problem, found in zip(problems, findings, strict=True))


def test_a_missing_manifest_is_found_for_native_backends(engine, tmp_path):
    models = tmp_path / "models"
    write_repository(models, [engine], ModelOptions(name="colours"))
    (models / "colours" / "1" / "model.onnx.json").unlink()
    (finding,) = check_repository(models).findings
    assert finding.code == "manifest-not-found"
    assert "model.onnx.json" in finding.problem


def test_a_missing_configuration_is_restored_without_image_models(engine, follow, tmp_path):
    models = tmp_path / "models"
    write_repository(models, [engine], replace(OPTIONS, images=False))
    (models / "colours" / "config.pbtxt").unlink()
    (finding,) = check_repository(models).findings
    follow(finding.fix)
    assert check_repository(models).findings == ()


def test_models_that_are_not_deploykits_are_ignored(models):
    tokens = models / "tokens"
    (tokens / "1").mkdir(parents=True)
    (tokens / "config.pbtxt").write_text('backend: "python"')
    (tokens / "1" / "model.py").write_text("class TritonPythonModel: ...\n")
    (tokens / "1" / "weights.onnx").touch()
    assert check_repository(models).findings == ()


@pytest.mark.parametrize("name", [".git", "lost+found", "photos"])
def test_a_folder_that_is_not_a_model_is_found(models, follow, name):
    (models / name).mkdir()
    (finding,) = check_repository(models).findings
    assert finding.code == "repository-folder-invalid"
    follow(finding.fix)
    assert check_repository(models).findings == ()


def test_an_altered_manifest_is_found(models):
    rewrite(models / "colours" / "1" / "model.cpu.engine.json", "build_seconds", "build_second")
    (finding,) = check_repository(models).findings
    assert finding.code == "manifest-damaged"


def test_links_out_of_a_model_are_found(models, tmp_path):
    (models / "colours" / "1" / "secret").symlink_to(tmp_path)
    (finding,) = check_repository(models).findings
    assert finding.code == "repository-path-escapes"
    assert str(models / "colours" / "1" / "secret") in finding.problem


def test_a_folder_with_an_invalid_model_name_is_found(models):
    (models / "colours").rename(models / "my colours")
    fix = f"rename {models / 'my colours'}, in its config.pbtxt and in ensembles that use it too"
    found = [each for each in check_repository(models).findings if each.model == "my colours"]
    assert [each.code for each in found] == ["invalid-model-name"]
    assert found[0].fix.startswith(fix)


@pytest.mark.parametrize(
    ("make", "code"), [(None, "file-not-found"), ("empty", "repository-empty"), ("other", "repository-empty")]
)
def test_a_folder_that_is_not_a_repository_is_refused(tmp_path, make, code):
    folder = tmp_path / "models"
    if make:
        folder.mkdir()
    if make == "other":
        (folder / "photos").mkdir()
    with refuses(code):
        check_repository(folder)
