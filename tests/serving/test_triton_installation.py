"""Finding Triton and a Python for its stub, and reading its log."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from refusals import refuses
from served import python, triton

from deploykit.serving.serve import serve
from deploykit.serving.triton.installation import find_triton
from deploykit.serving.triton.log import ModelEvents, startup_error
from deploykit.util.install_hint import install_hint


def test_the_stub_loads_the_library_of_its_python(tmp_path):
    """The loader finds the library of the Python whose packages the stub imports."""
    found = triton()
    if found.stub is None:
        pytest.skip("this Triton includes its own stub")
    listed = subprocess.run(
        ["ldd", found.stub], env=dict(found.variables), capture_output=True, text=True, check=True
    ).stdout
    (library,) = [line.split("=>")[1].split()[0] for line in listed.splitlines() if "libpython" in line]
    own = subprocess.run(
        [python() or sys.executable, "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert Path(library).resolve().parent == Path(own).resolve()


@pytest.fixture
def a_python(tmp_path):
    """Write a program that answers like a Python with given facts."""

    def write(**facts: object) -> Path:
        stub = tmp_path / "pytriton" / "tritonserver" / "python_backend_stubs" / "3.11"
        stub.mkdir(parents=True)
        (stub / "triton_python_backend_stub").touch()
        library = tmp_path / "libpython3.11.so.1.0"
        library.touch()
        said = {
            "version": [3, 11, 7],
            "pytriton": str(tmp_path / "pytriton"),
            "deploykit": "/somewhere/deploykit",
            "libraries": [str(library)],
            "numpy": "1.26.4",
            "pytriton_version": "0.7.0",
            "old_numpy_alone": True,
            **facts,
        }
        path = tmp_path / "python3"
        path.write_text(
            textwrap.dedent(f"""\
                #!{sys.executable}
                import json
                print(json.dumps({said!r}))
                """)
        )
        path.chmod(0o755)
        return path

    return write


def test_a_suitable_python_is_accepted(a_python, tmp_path):
    found = find_triton(a_python())
    assert found.is_bundled
    assert found.variables["LD_LIBRARY_PATH"].split(":")[0] == str(tmp_path)
    assert found.variables["PATH"].split(":")[0] == str(tmp_path)


@pytest.mark.parametrize(
    ("facts", "problem", "fix"),
    [
        ({"numpy": "2.4.6"}, "NumPy 2.4.6", "--python"),
        ({"version": [3, 14, 0]}, "Python 3.14", "3.11, 3.12 or 3.13"),
        ({"libraries": ["/lib/libpython3.11.a"]}, "no shared libpython", "--enable-shared"),
        ({"libraries": ["/nowhere/libpython3.11.so.1.0"]}, "no shared libpython", "--enable-shared"),
    ],
)
def test_an_unsuitable_python_is_refused_with_the_reason(a_python, facts, problem, fix):
    with refuses("triton-python-unusable") as caught:
        find_triton(a_python(**facts))
    assert problem in caught.value.problem
    assert fix in caught.value.fix


def test_a_missing_triton_names_the_extra_to_install(a_python, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with refuses("triton-not-found") as caught:
        find_triton(a_python(pytriton=None))
    assert install_hint("serve") in caught.value.fix


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ([], "engine-missing"),
        (["nothing"], "engine-not-found"),
        (["model.onnx"], "manifest-not-found"),
        (["folder"], "repository-empty"),
    ],
)
def test_mistakes_are_reported_before_a_missing_triton(a_python, workplace, monkeypatch, named, code):
    monkeypatch.setenv("PATH", "/nowhere")
    (workplace / "model.onnx").touch()
    (workplace / "folder").mkdir()
    which = a_python(pytriton=None)
    with refuses(code), serve(named, python=which):
        pass


def test_a_separate_triton_installation_is_found(a_python, tmp_path, monkeypatch):
    server = tmp_path / "tritonserver"
    server.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_triton(a_python(pytriton=None))
    assert (found.executable, found.is_bundled) == (server, False)
    assert found.backend_folder(tmp_path / "unused") is None


def test_supported_options_are_read_from_the_help(a_python, tmp_path, monkeypatch):
    server = tmp_path / "tritonserver"
    server.write_text("#!/bin/sh\necho Usage: --http-max-input-size '<integer>'\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = find_triton(a_python(pytriton=None))
    assert found.supports_option("--http-max-input-size")
    assert not found.supports_option("--http-max-output-size")


def test_querying_a_python_runs_nothing_from_the_current_folder(workplace, monkeypatch):
    found = triton()
    Path("json.py").write_text("raise SystemExit('run')\n")
    Path("python3").write_text("#!/bin/sh\necho no\n")
    Path("python3").chmod(0o755)
    which = Path(python() or sys.executable)
    assert find_triton(which) == found
    monkeypatch.setenv("PATH", f"{which.parent}:/usr/bin:/bin")
    assert find_triton(which.name).executable == found.executable


@pytest.mark.parametrize("wrong", ["nothing", "folder", "text"])
def test_a_file_that_is_not_a_python_is_refused(tmp_path, wrong):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no program")
    with refuses("triton-python-unusable"):
        find_triton(tmp_path / wrong)


LINE = 'E1122 23:14:15.490867 8803 model_lifecycle.cc:642] "{}"'


@pytest.mark.parametrize(
    ("said", "problem", "fix"),
    [
        (
            LINE.format(
                "failed to load 'b0' version 3: Internal: DeployError: e is for T4; this machine has none."
                r" Fix: run it there\n\nAt:\n  /models/b0/3/model.py(3): <module>\n"
            ),
            "Triton can't load b0, version 3: e is for T4; this machine has none.",
            "run it there",
        ),
        (
            LINE.format("failed to load 'b0' version 1: Invalid argument: unable to find backend library"),
            "Triton can't load b0, version 1: unable to find backend library.",
            "compare the repository with its engines: deploykit serve --check DIR",
        ),
        (
            "stub: error while loading shared libraries: libx.so: cannot open shared object file",
            "Triton's Python backend can't start: libx.so: cannot open shared object file.",
            "name another Python with --python",
        ),
        (
            "nothing of note",
            "Triton did not start: its log gives no reason.",
            "see Triton's log with --verbose",
        ),
    ],
)
def test_tritons_log_becomes_an_error(said, problem, fix):
    error = startup_error(
        ["I1122 started", said, "error: creating server: Internal - failed to load all models"]
    )
    if "nothing" not in said:
        assert (error.problem, error.fix) == (problem, fix)
    else:
        assert "failed to load all models" in error.problem
        assert startup_error([said]).problem == problem
        assert fix in startup_error([said]).fix


def test_each_event_is_reported_once():
    events = ModelEvents()
    failed = LINE.format("failed to load 'b0' version 3: Internal: no engine")
    said = [
        'I1 model_lifecycle.cc:472] "loading: b0:2"',
        "I1 successfully loaded 'b0'",
        "I1 successfully loaded 'b0-image'",
        *(failed, "I1 successfully loaded 'b0-image'") * 3,
        'I1 model_lifecycle.cc:472] "loading: b0:4"',
        "I1 successfully loaded 'b0'",
        failed,
        "I1 nothing of note",
    ]
    assert [sentence for line in said if (sentence := events.parse(line)) is not None] == [
        "Triton has loaded b0, version 2.",
        "Triton has loaded b0-image.",
        "Triton can't load b0, version 3: no engine. The version before stays in service.",
        "Triton has loaded b0, version 4.",
        "Triton can't load b0, version 3: no engine. The version before stays in service.",
    ]
