"""Where engines from bundles are cached, and what happens if they cannot be."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refuses
from small_models import colour_blocks

import deploykit
from deploykit.engine.build import build_engine
from deploykit.engine.manifest import read_engine_manifest, write_engine
from deploykit.engine.shapes import BatchRange
from deploykit.engine.targets import CPU, Target, resolve_target
from deploykit.runtime import Engine
from deploykit.runtime.bundle import engine_cache as bundle_cache
from deploykit.runtime.bundle.bundle import Bundle, write_bundle
from deploykit.runtime.bundle.engine_cache import cached_engine_name
from deploykit.runtime.preflight import RuntimeEnvironment
from deploykit.util.errors import DeployError
from deploykit.util.local_gpu import LocalGpu, local_gpu
from deploykit.util.user_cache import cache_folder

pytestmark = pytest.mark.skipif(
    local_gpu() is not None, reason="these are bundles on a machine without a GPU"
)

A10, A40 = LocalGpu(name="NVIDIA A10", sm=86), LocalGpu(name="NVIDIA A40", sm=86)
TENSORRT = "10.16.1.11"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "deploykit" / "bundles"


@pytest.fixture
def model(tmp_path) -> Path:
    return colour_blocks(tmp_path / "model.onnx")


@pytest.fixture
def bundled(model, tmp_path) -> Path:
    """A bundle without plans."""
    return write_bundle(model, output=tmp_path / "b.dkb").path


@pytest.fixture
def with_plan(model, tmp_path) -> Path:
    """A bundle with a plan that runs here."""
    engine = build_engine(onnx=model, gpu="cpu", output=tmp_path / "cpu.engine").path
    return write_bundle(model, [engine], output=tmp_path / "plan.dkb").path


# ---------------------------------------------------------------- what is kept, and for whom


def test_each_gpu_has_a_separate_cached_engine():
    a10, a40 = (Target(name=gpu.name, compiler="tensorrt", sm=gpu.sm) for gpu in (A10, A40))
    assert cached_engine_name(a10, TENSORRT) == "tensorrt-10.16.1.11-nvidia-a10-sm86-deploykit-0.1.0.engine"
    assert cached_engine_name(a40, TENSORRT) == "tensorrt-10.16.1.11-nvidia-a40-sm86-deploykit-0.1.0.engine"


def test_an_engine_cached_for_another_gpu_is_not_used(bundled, with_plan, cache, monkeypatch):
    """Two machines may share a home folder."""

    def on(gpu: LocalGpu) -> RuntimeEnvironment:
        monkeypatch.setattr("deploykit.engine.targets.local_gpu", lambda: gpu)
        return RuntimeEnvironment(gpu=gpu, runtimes={"tensorrt": TENSORRT})

    monkeypatch.setattr("deploykit.engine.targets.is_installed", lambda compiler: True)
    (plan,) = Bundle(with_plan).contents.plans
    target = Bundle(bundled).resolve(on(A10)).build_target
    kept = Bundle(bundled)._cache.get_or_create(
        cached_engine_name(target, TENSORRT),
        on(A10),
        lambda: (
            with_plan.with_name("cpu.engine").read_bytes(),
            replace(plan.manifest, target=target, compiler_version=TENSORRT),
        ),
    )
    assert Bundle(bundled).resolve(on(A10)).cached_path == kept
    assert Bundle(bundled).resolve(on(A40)).cached_path is None
    # Not even under that GPU's name.
    a40 = kept.with_name(cached_engine_name(resolve_target(None), TENSORRT))
    write_engine(a40, kept.read_bytes(), read_engine_manifest(kept))
    assert Bundle(bundled).resolve(on(A40)).cached_path is None


def test_an_engine_of_another_deploykit_version_is_rebuilt(bundled, cache, monkeypatch):
    first = Bundle(bundled).prepare_engine()
    monkeypatch.setattr("deploykit.runtime.bundle.engine_cache.__version__", "9.9")
    second = Bundle(bundled).prepare_engine()
    assert (first.parent, "9.9" in second.name) == (second.parent, True)
    assert deploykit.__version__ in first.name


def test_a_cached_engine_for_another_machine_is_rebuilt(bundled, model, cache):
    kept = Bundle(bundled).prepare_engine()
    for_t4 = build_engine(onnx=model, gpu="T4", output=model.with_name("t4.engine"))
    write_engine(kept, for_t4.path.read_bytes(), for_t4.manifest)
    Engine.load(bundled).close()
    assert read_engine_manifest(kept).target == resolve_target(CPU)


def test_a_filled_cache_may_be_read_only(bundled, with_plan, monkeypatch):
    for path in (bundled, with_plan):
        Engine.load(path).close()

    def refuse(folder: Path):
        raise AssertionError("the cache was locked, to be written")

    monkeypatch.setattr(bundle_cache, "_lock_folder", refuse)
    for path in (bundled, with_plan):
        Engine.load(path).close()


AT_ONCE = """
import os, sys, time
from pathlib import Path
from deploykit.runtime import Engine
from deploykit.runtime.bundle.engine_cache import EngineCache

find, meeting = EngineCache.find, Path(sys.argv[2])

def find_together(*given):
    found = find(*given)
    (meeting / str(os.getpid())).touch()
    while len(list(meeting.iterdir())) < 2:
        time.sleep(0.01)
    return found

EngineCache.find = find_together
Engine.load(sys.argv[1]).close()
"""


def test_of_two_concurrent_processes_only_one_builds(bundled, tmp_path, cache):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    command = [sys.executable, "-c", AT_ONCE, str(bundled), str(meeting)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sum(each.count("an engine for the CPU is built") for each in told) == 1
    (made,) = cache.glob("*/*.engine")
    read_engine_manifest(made)


# ---------------------------------------------------------------- where nothing can be kept


def no_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nope")


def file_in_the_way(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))


def no_home(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)

    def unknown(uid: int):
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)


UNWRITABLE = pytest.mark.parametrize("unwritable", [no_folder, file_in_the_way, no_home])


@UNWRITABLE
@pytest.mark.parametrize("which", ["bundled", "with_plan"])
def test_a_bundle_runs_and_notes_it_if_the_cache_cannot_be_written(
    request, run, tmp_path, monkeypatch, *, caplog, unwritable: Callable, which
):
    path = request.getfixturevalue(which)
    unwritable(tmp_path, monkeypatch)
    Engine.load(path).close()
    (told,) = [each for each in caplog.messages if "deleted when the process ends" in each]
    assert "XDG_CACHE_HOME" in told
    checked = run("check", str(path))
    assert checked.status == 0
    assert "deleted when the process ends" in checked.out


@pytest.mark.parametrize("which", ["bundled", "with_plan"])
def test_check_neither_mentions_nor_touches_a_writable_cache(request, run, tmp_path, cache, which):
    checked = run("check", str(request.getfixturevalue(which)))
    assert "deleted when the process ends" not in checked.out
    assert not cache.exists()


def test_a_full_cache_that_has_the_engine_may_be_unwritable(bundled, run, monkeypatch):
    """For example a read-only cache that contains the engine."""
    Engine.load(bundled).close()
    monkeypatch.setattr("tempfile.TemporaryFile", _refuse)
    checked = run("check", str(bundled))
    assert "was built before and is kept" in checked.out
    assert "deleted when the process ends" not in checked.out


def test_a_disk_that_fills_up_does_not_cause_a_second_build(model, tmp_path, monkeypatch, caplog):
    bundled = write_bundle(model, output=tmp_path / "b.dkb", batches=[BatchRange(max=3)]).path  # as no other
    write, refused = bundle_cache.write_engine, []

    def refuse_first(path, *given):
        if not refused:
            refused.append(path)
            raise DeployError("disk full.", code="output-unwritable", fix="make room")
        write(path, *given)

    monkeypatch.setattr(bundle_cache, "write_engine", refuse_first)
    Engine.load(bundled).close()
    assert refused
    assert "disk full. The engine is deleted when the process ends" in caplog.text
    assert caplog.text.count("an engine for the CPU is built") == 1


LOAD = """
import os, sys
from deploykit.runtime import Engine

engine = Engine.load(sys.argv[1])
engine.close()
if (child := os.fork()) == 0:
    sys.exit()
os.waitpid(child, 0)
assert engine.path.is_file(), "a fork took it along"
assert Engine.load(sys.argv[1]).path == engine.path
print(engine.path)
"""


def test_an_uncached_engine_exists_once_until_the_process_ends(bundled, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(bundled)],
        env={**os.environ, "XDG_CACHE_HOME": "/proc/nope", "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(temporary)
    assert done.stderr.count("an engine for the CPU is built") == 1
    assert not list(temporary.iterdir())


def _refuse(*_given, **_options):
    raise FileNotFoundError(2, "No usable temporary directory found")


@pytest.mark.parametrize("which", ["bundled", "with_plan"])
def test_check_and_load_say_that_nothing_can_be_written(request, run, monkeypatch, which):
    path = request.getfixturevalue(which)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nope")
    monkeypatch.setattr("tempfile.mkdtemp", _refuse)
    checked = run("check", str(path))
    assert checked.status == 3
    assert "cannot run here\n  The folder for temporary files cannot be written" in checked.out
    with refuses("cache-unwritable") as caught:
        Engine.load(path)
    assert "No usable temporary directory found" in caught.value.problem
    assert "TMPDIR" in caught.value.fix


def test_a_user_without_a_home_folder_has_no_cache_folder(tmp_path, monkeypatch):
    no_home(tmp_path, monkeypatch)
    with refuses("cache-folder-missing") as caught:
        cache_folder()
    assert "XDG_CACHE_HOME" in caught.value.fix
