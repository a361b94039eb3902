"""What lands in a repository, beside what is there."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from served import colours
from small_models import two_convolutions

from deploykit.engine.manifest import read_manifest, write_engine
from deploykit.errors import DeployError
from deploykit.files import sha256_of
from deploykit.pipeline import build_engine
from deploykit.serving.repository.check import check_repository
from deploykit.serving.repository.names import require_name, stays_inside
from deploykit.serving.repository.write import Options, write_repository

OPTIONS = Options(name="colours", backend="python")


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    return colours(tmp_path_factory.mktemp("engine"))


@pytest.fixture
def models(engine, tmp_path) -> Path:
    folder = tmp_path / "models"
    write_repository(folder, [engine], OPTIONS)
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    return {str(each.relative_to(folder)): sha256_of(each) for each in files}


def test_a_model_is_three_folders_and_agrees_with_its_engine(models):
    assert sorted(each.name for each in models.iterdir()) == ["colours", "colours-decode", "colours-image"]
    found = check_repository(models)
    assert found.findings == ()
    assert [(each.kind, each.versions) for each in found.models] == [
        ("python", (1,)),
        ("python", (1,)),
        ("ensemble", (1,)),
    ]


def test_a_second_engine_is_a_second_version_and_leaves_the_first_alone(models, tmp_path):
    before = contents(models)
    (written,) = write_repository(models, [colours(tmp_path, max_batch=33)], OPTIONS)
    assert written.version == 2
    after = contents(models)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[1] for name in set(after) - set(before)} == {"2"}


def test_the_engine_that_is_there_is_not_written_again(models, engine):
    before = contents(models)
    notes: list[str] = []
    (written,) = write_repository(models, [engine], OPTIONS, note=notes.append)
    assert (written.version, notes) == (1, ["colours has this as version 1: nothing was written."])
    assert contents(models) == before


@pytest.mark.parametrize(
    ("deleted", "written"),
    [
        (["colours-decode"], "only colours-decode was written"),
        (["colours-decode", "colours-image"], "only colours-decode and colours-image were written"),
    ],
)
def test_what_was_deleted_around_an_engine_is_written_again_and_said(models, engine, deleted, written):
    before = contents(models)
    for each in deleted:
        shutil.rmtree(models / each)
    notes: list[str] = []
    write_repository(models, [engine], OPTIONS, note=notes.append)
    assert notes == [f"colours has this as version 1: {written}."]
    assert contents(models) == before


def test_an_engine_of_before_is_a_version_again_after_another(models, engine, tmp_path):
    write_repository(models, [colours(tmp_path, max_batch=33)], OPTIONS)
    (written,) = write_repository(models, [engine], OPTIONS)
    assert written.version == 3


def test_versions_written_at_the_same_time_are_all_there(models, tmp_path):
    folders = [tmp_path / str(size) for size in range(33, 37)]
    for folder in folders:
        folder.mkdir()
    engines = [colours(folder, max_batch=int(folder.name)) for folder in folders]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda engine: write_repository(models, [engine], OPTIONS), engines))
    assert check_repository(models).models[0].versions == (1, 2, 3, 4, 5)
    assert check_repository(models).findings == ()


def test_an_engine_that_was_altered_changes_nothing(models, engine, tmp_path):
    before = contents(models)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(engine.read_bytes()[:-1])
    shutil.copy(f"{engine}.json", f"{broken}.json")
    with pytest.raises(DeployError, match="altered or cut short"):
        write_repository(models, [broken], OPTIONS)
    assert contents(models) == before


def test_an_engine_that_answers_nan_changes_nothing(models, tmp_path, monkeypatch):
    before = contents(models)
    from deploykit.runtime import Engine

    monkeypatch.setattr(
        Engine, "__call__", lambda self, images: np.full((len(images), 3), np.nan, np.float32)
    )
    with pytest.raises(DeployError, match="NaN or Inf"):
        write_repository(models, [colours(tmp_path)], OPTIONS)
    assert contents(models) == before


def test_a_version_that_takes_less_than_clients_were_promised_is_refused(models, tmp_path):
    before = contents(models)
    with pytest.raises(DeployError, match="batches of up to 32, and the new engine of up to 16") as caught:
        write_repository(models, [colours(tmp_path, max_batch=16)], OPTIONS)
    assert "--name" in caught.value.fix
    assert contents(models) == before


def test_another_model_under_the_same_name_is_refused(models, random_b0, tmp_path):
    other = build_engine(onnx=random_b0.path, gpu="cpu", output=tmp_path / "other.onnx").path
    with pytest.raises(DeployError, match=r"takes input FP32 \(3, 8, 8\), and the new engine"):
        write_repository(models, [other], OPTIONS)


def test_another_backend_under_the_same_name_is_refused(models, engine):
    with pytest.raises(DeployError, match="is run by python, and the new engine onnxruntime"):
        write_repository(models, [engine], Options(name="colours"))


@pytest.mark.parametrize(
    "name", ["../other", "..", ".hidden", "a/b", "/tmp/x", "", "-x", "a b", "a\n", "x" * 101, "a\0b", "ä"]
)
def test_a_name_that_leads_elsewhere_is_refused(engine, tmp_path, name):
    with pytest.raises(DeployError, match="can't be a model's name"):
        write_repository(tmp_path / "models", [engine], Options(name=name))
    assert not (tmp_path / "models").exists()
    assert [each.name for each in tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["flowers", "b0.int8_v2", "7", "a..b"])
def test_a_plain_name_is_taken(name):
    assert require_name(name) == name


def test_a_link_in_the_place_of_a_model_is_not_followed(engine, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "colours").symlink_to(elsewhere)
    with pytest.raises(DeployError, match="is no folder of a model"):
        write_repository(tmp_path / "models", [engine], OPTIONS)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "inside"), [("a.plan", True), ("../a", False), ("/etc/passwd", False), ("b/../../a", False)]
)
def test_what_a_configuration_names_stays_in_its_folder(tmp_path, name, inside):
    assert stays_inside(tmp_path, name) is inside


# --- repositories that don't agree with their engines


def rewrite(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


NAMED = 'backend: "python" default_model_filename: "{}"'


@pytest.mark.parametrize(
    ("model", "before", "after", "problem"),
    [
        ("colours", 'name: "input"', 'name: "images"', "takes input FP32 (3, 8, 8); its"),
        ("colours", "dims: 8", "dims: 9", "takes input FP32 (3, 8, 8); its"),
        ("colours", "TYPE_FP32", "TYPE_FP16", "FP16 (3, 8, 8)"),
        ("colours", "max_batch_size: 32", "max_batch_size: 64", "batches of up to 32"),
        ("colours", "preferred_batch_size: 8", "preferred_batch_size: 48", "batches of 48"),
        ("colours", 'name: "colours"', 'name: "roses"', "is for 'roses'"),
        ("colours", "max_batch_size", "max_batch_sise", "no configuration of Triton's"),
        ("colours", 'backend: "python"', NAMED.format("../x"), "outside"),
        ("colours", 'backend: "python"', NAMED.format("x"), "is not there"),
        ("colours-image", '"colours-decode"', '"roses"', "needs roses, which is not there"),
        ("colours-image", 'key: "input"', 'key: "x"', "needs x of colours"),
    ],
)
def test_a_repository_that_disagrees_is_found_out(models, model, before, after, problem):
    rewrite(models / model / "config.pbtxt", before, after)
    findings = check_repository(models).findings
    assert any(problem in each.problem for each in findings), findings


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
    ("colours/labels.txt", "red -> rose", "is not what deploykit writes for its engine"),
    ("colours/labels.txt", "lengthen", "is not what deploykit writes for its engine"),
    ("colours/labels.txt", "delete", "which config.pbtxt names, is not there"),
    ("colours-image/labels.txt", "red -> rose", "is not what deploykit writes for its engine"),
    ("colours-image/labels.txt", "lengthen", "is not what deploykit writes for its engine"),
    ("colours-image/labels.txt", "delete", "which config.pbtxt names, is not there"),
    ("colours-decode/1/preprocessing.json", "8 -> 12", "is not what deploykit writes for its engine"),
    ("colours-decode/1/preprocessing.json", "delete", "is not there"),
    ("colours/1/model.py", "import -> imprt", "is not what deploykit writes for its engine"),
    ("colours/1/model.py", "delete", "which config.pbtxt names, is not there"),
    ("colours-decode/1/model.py", "lengthen", "is not what deploykit writes for its engine"),
    ("colours-decode/1/model.py", "delete", "which config.pbtxt names, is not there"),
    ("colours/1/model.cpu.engine.json", "delete", "has no manifest"),
    ("colours/1/model.cpu.engine", "delete", "There is no engine"),
    ("colours-image", "delete", "leads from colours-decode to colours, is not there"),
    ("colours-decode", "delete", "colours-image needs colours-decode, which is not there"),
    ("colours/config.pbtxt", "delete", "There is no"),
    ("colours/config.pbtxt", "empty", "its configuration says nothing."),
    ("colours/config.pbtxt", "dims: 8 -> dims: 9", "takes input FP32 (3, 8, 8); its"),
    ("colours/config.pbtxt", "max_batch_size: 32 -> max_batch_size: 640", "takes batches of up to 32; its"),
    ("colours-decode/config.pbtxt", "delete", "There is no"),
    ("colours-decode/config.pbtxt", "empty", "is run by python; its configuration says nothing"),
    ("colours-decode/config.pbtxt", "dims: 8 -> dims: 9", "gives prepared FP32 (3, 8, 8); its"),
    ("colours-image/config.pbtxt", "delete", "There is no"),
    ("colours-image/config.pbtxt", "empty", "is run by ensemble; its configuration says nothing"),
    ("colours-image/config.pbtxt", "dims: 3 -> dims: 4", "gives logits FP32 (3); its"),
]


@pytest.fixture(scope="module")
def named_engine(tmp_path_factory) -> Path:
    """Whose classes have names."""
    folder = tmp_path_factory.mktemp("named")
    path = colours(folder)
    manifest = read_manifest(path)
    model = replace(manifest.model, labels=("red", "green", "blue"))
    write_engine(path, path.read_bytes(), replace(manifest, model=model))
    return path


@pytest.fixture
def named_models(named_engine, tmp_path) -> Path:
    write_repository(tmp_path / "models", [named_engine], OPTIONS)
    return tmp_path / "models"


@pytest.fixture
def follow(named_engine):
    """Does what a fix says, where that is to move or remove a folder, and to write a repository."""

    def do(fix: str) -> None:
        if folder := re.search(r"(?:move|remove) (\S+)", fix):
            shutil.rmtree(folder[1])
        if command := re.search(
            r"deploykit serve --triton (\S+) ENGINE --name (\S+)( --backend python)?", fix
        ):
            backend = "python" if command[3] else None
            write_repository(command[1], [named_engine], Options(name=command[2], backend=backend))
        assert folder or command, fix

    return do


@pytest.mark.parametrize(("path", "change", "problem"), BROKEN)
def test_whatever_is_broken_is_found_out_and_written_anew_as_the_fix_says(
    named_models, follow, path, change, problem
):
    before = contents(named_models)
    edit(change, named_models / path)
    findings = check_repository(named_models).findings
    assert any(problem in each.problem for each in findings), findings
    while findings:
        follow(findings[0].fix)
        left = check_repository(named_models).findings
        assert len(left) < len(findings)
        findings = left
    assert contents(named_models) == before


@pytest.mark.parametrize(
    ("path", "change", "problem"),
    [
        ("colours/config.pbtxt", "delete", "There is no"),
        ("colours/config.pbtxt", "empty", "its configuration says nothing."),
        ("colours/config.pbtxt", "dims: 8 -> dims: 9", "its configuration says"),
        ("colours/config.pbtxt", "max_batch_size: 32 -> max_batch_size: 640", "its configuration says 640"),
        ("colours/labels.txt", "delete", "is not there"),
        ("colours-image/config.pbtxt", "delete", "There is no"),
        ("colours-image/config.pbtxt", "empty", "takes nothing, and the new engine"),
        ("colours-decode/1/preprocessing.json", "8 -> 12", "says something else"),
    ],
)
def test_a_broken_model_gets_no_other_version_until_it_is_written_anew_as_the_fix_says(
    named_models, follow, path, change, problem
):
    before = contents(named_models)
    edit(change, named_models / path)
    with pytest.raises(DeployError) as caught:
        follow(f"deploykit serve --triton {named_models} ENGINE --name colours --backend python")
    assert problem in caught.value.problem
    follow(caught.value.fix)
    assert contents(named_models) == before


def test_what_is_around_an_engine_that_is_gone_is_found_out(named_models, follow):
    shutil.rmtree(named_models / "colours")
    (finding,) = check_repository(named_models).findings
    assert "colours-image needs colours, which is not there" in finding.problem
    follow(finding.fix)
    assert check_repository(named_models).findings == ()


@pytest.mark.parametrize("gone", ["model.cpu.engine", "model.cpu.engine.json", "model.py", "*"])
def test_a_broken_version_is_found_out_beside_a_whole_one(models, follow, tmp_path, gone):
    write_repository(models, [colours(tmp_path, max_batch=33)], OPTIONS)
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
def test_a_configuration_may_be_tuned(named_models, path, change):
    edit(change, named_models / path)
    assert check_repository(named_models).findings == ()


def test_an_engine_without_its_manifest_is_found_out_for_tritons_own_backend_too(engine, tmp_path):
    models = tmp_path / "models"
    write_repository(models, [engine], Options(name="colours"))
    (models / "colours" / "1" / "model.onnx.json").unlink()
    (finding,) = check_repository(models).findings
    assert "has no manifest model.onnx.json" in finding.problem


def test_a_single_model_without_its_configuration_is_written_anew_as_the_fix_says(engine, follow, tmp_path):
    models = tmp_path / "models"
    write_repository(models, [engine], replace(OPTIONS, images=False))
    (models / "colours" / "config.pbtxt").unlink()
    (finding,) = check_repository(models).findings
    follow(finding.fix)
    assert check_repository(models).findings == ()


def test_models_of_others_are_left_alone(models):
    tokens = models / "tokens"
    (tokens / "1").mkdir(parents=True)
    (tokens / "config.pbtxt").write_text('backend: "python"')
    (tokens / "1" / "model.py").write_text("class TritonPythonModel: ...\n")
    (tokens / "1" / "weights.onnx").touch()
    assert check_repository(models).findings == ()


def test_an_altered_manifest_is_found_out(models):
    rewrite(models / "colours" / "1" / "model.cpu.engine.json", "build_seconds", "build_second")
    (finding,) = check_repository(models).findings
    assert "is no manifest" in finding.problem


def test_links_that_leave_a_model_are_found_out(models, tmp_path):
    (models / "colours" / "1" / "secret").symlink_to(tmp_path)
    (finding,) = check_repository(models).findings
    assert "is a link that leaves" in finding.problem


@pytest.mark.parametrize(
    ("make", "problem"), [(None, "no folder"), ("empty", "no models"), ("other", "no model")]
)
def test_what_is_no_repository_is_refused(tmp_path, make, problem):
    folder = tmp_path / "models"
    if make:
        folder.mkdir()
    if make == "other":
        (folder / "photos").mkdir()
    with pytest.raises(DeployError, match=problem):
        check_repository(folder)


def test_a_model_that_is_no_engine_is_refused(tmp_path):
    model = two_convolutions(tmp_path / "model.onnx")
    with pytest.raises(DeployError, match="has no manifest"):
        write_repository(tmp_path / "models", [model])
    with pytest.raises(DeployError, match="There is no engine"):
        write_repository(tmp_path / "models", [tmp_path / "nothing"])
    with pytest.raises(DeployError, match="No engine was named"):
        write_repository(tmp_path / "models", [])
    assert not (tmp_path / "models").exists()
