"""Writing engines into new and existing repositories."""

import os
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses
from served import colours, contents
from small_models import two_convolutions

from deploykit.engine.build import build_engine
from deploykit.serving.repository.check import check_repository
from deploykit.serving.repository.names import is_inside, require_model_name
from deploykit.serving.repository.options import ModelOptions
from deploykit.serving.repository.write import write_repository
from deploykit.serving.serve import serve

OPTIONS = ModelOptions(name="colours", backend="python")


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    return colours(tmp_path_factory.mktemp("engine"))


@pytest.fixture
def models(engine, tmp_path) -> Path:
    folder = tmp_path / "models"
    write_repository(folder, [engine], OPTIONS)
    return folder


def test_a_model_is_three_folders_that_agree_with_the_engine(models):
    assert sorted(each.name for each in models.iterdir()) == ["colours", "colours-decode", "colours-image"]
    found = check_repository(models)
    assert found.findings == ()
    assert [(each.kind, each.versions) for each in found.models] == [
        ("python", (1,)),
        ("python", (1,)),
        ("ensemble", (1,)),
    ]


def test_a_second_engine_becomes_version_2_and_leaves_version_1_alone(models, tmp_path):
    before = contents(models)
    (written,) = write_repository(models, [colours(tmp_path, max_batch=33)], OPTIONS)
    assert written.version == 2
    after = contents(models)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[1] for name in set(after) - set(before)} == {"2"}


def test_the_newest_engine_is_not_written_again(models, engine):
    before = contents(models)
    notes: list[str] = []
    (written,) = write_repository(models, [engine], OPTIONS, note=notes.append)
    assert (written.version, notes) == (1, ["colours already has this engine as version 1; wrote nothing."])
    assert contents(models) == before


@pytest.mark.parametrize(
    ("deleted", "written"),
    [
        (["colours-decode"], "wrote only colours-decode"),
        (["colours-decode", "colours-image"], "wrote only colours-decode and colours-image"),
    ],
)
def test_deleted_image_models_are_written_again_with_a_note(models, engine, deleted, written):
    before = contents(models)
    for each in deleted:
        shutil.rmtree(models / each)
    notes: list[str] = []
    write_repository(models, [engine], OPTIONS, note=notes.append)
    assert notes == [f"colours already has this engine as version 1; {written}."]
    assert contents(models) == before


def test_an_older_engine_becomes_a_new_version(models, engine, tmp_path):
    write_repository(models, [colours(tmp_path, max_batch=33)], OPTIONS)
    (written,) = write_repository(models, [engine], OPTIONS)
    assert written.version == 3


def test_a_file_with_the_next_versions_name_is_skipped(models, tmp_path):
    (models / "colours" / "2").write_text("no version")
    (written,) = write_repository(models, [colours(tmp_path, max_batch=33)], OPTIONS)
    assert written.version == 3
    assert (models / "colours" / "2").read_text() == "no version"


@pytest.mark.parametrize(("newest", "following"), [(999_999_999, 10**9), (10**18 - 2, 10**18 - 1)])
def test_the_next_version_follows_any_number_triton_accepts(models, tmp_path, newest, following):
    (models / "colours" / "1").rename(models / "colours" / str(newest))
    (written,) = write_repository(models, [colours(tmp_path, max_batch=33)], OPTIONS)
    assert written.version == following
    assert check_repository(models).models[0].versions == (newest, following)


def test_no_version_follows_the_last_number(models, tmp_path):
    (models / "colours" / "1").rename(models / "colours" / ("9" * 18))
    before = contents(models)
    with refuses("repository-version-invalid"):
        write_repository(models, [colours(tmp_path, max_batch=33)], OPTIONS)
    assert contents(models) == before


def test_files_and_folders_are_flushed_before_the_move_and_the_parent_after(models, tmp_path, monkeypatch):
    """A power cut leaves no partial version: files first, then folders, the move, and its parent."""
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def flushed(handle: int) -> None:
        done.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def renamed(path: Path, target: Path) -> None:
        done.append("renamed")
        rename(path, target)

    engine = colours(tmp_path, max_batch=33)
    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "rename", renamed)
    write_repository(models, [engine], OPTIONS)
    *files, folder, name, parent = done
    assert sorted(files) == sorted(each.name for each in (models / "colours" / "2").iterdir())
    assert (folder, name, parent) == ("new", "renamed", "colours")


def test_versions_written_concurrently_all_exist(models, tmp_path):
    folders = [tmp_path / str(size) for size in range(33, 37)]
    for folder in folders:
        folder.mkdir()
    engines = [colours(folder, max_batch=int(folder.name)) for folder in folders]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda engine: write_repository(models, [engine], OPTIONS), engines))
    assert check_repository(models).models[0].versions == (1, 2, 3, 4, 5)
    assert check_repository(models).findings == ()


def test_an_altered_engine_changes_nothing(models, engine, tmp_path):
    before = contents(models)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(engine.read_bytes()[:-1])
    shutil.copy(f"{engine}.json", f"{broken}.json")
    with refuses("engine-damaged"):
        write_repository(models, [broken], OPTIONS)
    assert contents(models) == before


def test_an_engine_that_returns_nan_changes_nothing(models, tmp_path, monkeypatch):
    before = contents(models)
    from deploykit.runtime import Engine

    monkeypatch.setattr(
        Engine, "__call__", lambda self, images: np.full((len(images), 3), np.nan, np.float32)
    )
    with refuses("outputs-not-finite"):
        write_repository(models, [colours(tmp_path)], OPTIONS)
    assert contents(models) == before


def test_a_version_with_smaller_batches_is_refused(models, tmp_path):
    before = contents(models)
    with refuses("repository-version-mismatch") as caught:
        write_repository(models, [colours(tmp_path, max_batch=16)], OPTIONS)
    assert "batches of up to 32, but the new engine only up to 16" in caught.value.problem
    assert "--name" in caught.value.fix
    assert contents(models) == before


def test_a_full_disk_is_an_error_with_the_path(models, tmp_path):
    before = contents(models)
    engine = colours(tmp_path, max_batch=33)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with refuses("repository-unwritable") as caught:
            write_repository(models, [engine], OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{models / 'colours' / '2'}: File too large" in caught.value.problem
    assert contents(models) == before


def test_an_engine_that_disappears_meanwhile_is_named(tmp_path, monkeypatch):
    engine, models = colours(tmp_path), tmp_path / "models"

    def meanwhile(folder: Path) -> None:
        folder.mkdir()
        engine.unlink()

    monkeypatch.setattr("deploykit.serving.repository.write.create_repository", meanwhile)
    with refuses("file-unreadable") as caught:
        write_repository(models, [engine], OPTIONS)
    assert f"{engine}: No such file or directory" in caught.value.problem
    assert list(models.iterdir()) == []


def test_another_model_under_the_same_name_is_refused(models, random_b0, tmp_path):
    other = build_engine(onnx=random_b0.path, gpu="cpu", output=tmp_path / "other.onnx").path
    with refuses("repository-version-mismatch") as caught:
        write_repository(models, [other], OPTIONS)
    assert "takes input FP32 (3, 8, 8), but the new engine takes" in caught.value.problem


def test_another_backend_under_the_same_name_is_refused(models, engine):
    with refuses("repository-version-mismatch") as caught:
        write_repository(models, [engine], ModelOptions(name="colours"))
    assert "is run by python, but the new engine is run by onnxruntime" in caught.value.problem


@pytest.mark.parametrize(
    "name", ["../other", "..", ".hidden", "a/b", "/tmp/x", "", "-x", "a b", "a\n", "x" * 101, "a\0b", "ä"]
)
def test_a_name_that_escapes_the_repository_is_refused(engine, tmp_path, name):
    with refuses("invalid-model-name"):
        write_repository(tmp_path / "models", [engine], ModelOptions(name=name))
    assert not (tmp_path / "models").exists()
    assert [each.name for each in tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["flowers", "b0.int8_v2", "7", "a..b"])
def test_a_plain_name_is_accepted(name):
    assert require_model_name(name) == name


def test_a_folder_with_other_files_than_models_is_refused(engine, tmp_path):
    """For example the folder of engines, given to --check or serve by mistake."""
    engines = tmp_path / "engines"
    shutil.copytree(engine.parent, engines / "colours")
    before = contents(engines)
    with refuses("repository-empty") as caught:
        check_repository(engines)
    assert str(engines) not in caught.value.fix
    with refuses("repository-folder-invalid") as caught:
        write_repository(engines, [engine], OPTIONS)
    assert caught.value.fix.startswith("use a folder that holds only models")
    assert contents(engines) == before


def test_an_empty_folder_name_is_not_the_current_folder(engine, models, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with refuses("output-missing"):
        write_repository("", [engine], OPTIONS)
    assert list((tmp_path / "empty").iterdir()) == []
    monkeypatch.chdir(models)
    with refuses("output-missing"):
        check_repository("")
    with refuses("output-missing"), serve([""]):
        pass
    assert check_repository(".").findings == ()


def test_a_link_in_place_of_a_model_is_not_followed(engine, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "colours").symlink_to(elsewhere)
    with refuses("repository-folder-invalid"):
        write_repository(tmp_path / "models", [engine], OPTIONS)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "inside"), [("a.plan", True), ("../a", False), ("/etc/passwd", False), ("b/../../a", False)]
)
def test_file_names_in_a_configuration_stay_in_their_folder(tmp_path, name, inside):
    assert is_inside(tmp_path, name) is inside


def test_a_model_that_is_not_an_engine_is_refused(tmp_path):
    model = two_convolutions(tmp_path / "model.onnx")
    with refuses("manifest-not-found"):
        write_repository(tmp_path / "models", [model])
    with refuses("engine-not-found"):
        write_repository(tmp_path / "models", [tmp_path / "nothing"])
    with refuses("engine-missing"):
        write_repository(tmp_path / "models", [])
    assert not (tmp_path / "models").exists()
