"""Mistakes in the options of deploykit serve and client, and repositories on the command line."""

import json
import socket
from pathlib import Path

import pytest
from PIL import Image
from served import FREE_PORTS, colours, serve_arguments, triton
from solid_colours import SIDE_PX

from deploykit.serving.repository.options import ModelOptions
from deploykit.serving.repository.write import write_repository


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    return colours(tmp_path_factory.mktemp("engine"))


def test_a_server_port_in_use_is_refused(run, engine):
    triton()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(*serve_arguments(engine, "--http-port", port, "--grpc-port", "0", "--metrics-port", "0"))
    assert done.status == 2
    assert done.code == "address-unavailable"
    assert f"127.0.0.1:{port}: address already in use" in done.err
    assert "--http-port" in done.err


def test_a_backend_missing_from_this_triton_is_refused(run, engine, tmp_path):
    if not triton().is_bundled:
        pytest.skip("this Triton may have it")
    write_repository(tmp_path / "models", [engine], ModelOptions(name="colours"))
    done = run(*serve_arguments(tmp_path / "models", *FREE_PORTS))
    assert done.status == 2
    assert done.code == "triton-backend-missing"
    assert "--backend python" in done.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ("engine-missing", "")),
        (("nothing",), ("engine-not-found", "nothing")),
        (("folder",), ("repository-empty", "folder")),
        (("folder", "ENGINE"), ("option-conflict", "folder")),
        (("--name", "../x", "ENGINE"), ("invalid-model-name", "'../x'")),
        (("--triton", "ENGINE", "ENGINE"), ("repository-unwritable", "")),
        (("--triton", "models"), ("engine-missing", "")),
        (("--check", "nothing"), ("file-not-found", "nothing")),
        (("--check", "folder", "ENGINE"), ("option-conflict", "--check")),
        (("ENGINE", "--http-port", "70000"), ("invalid-port", "70000")),
        (("ENGINE", "--http-port", "9119", "--grpc-port", "9119"), ("invalid-port", "9119 is given twice")),
        (("ENGINE", "--host", ""), ("address-missing", "host")),
        (("--triton", "", "ENGINE"), ("option-incomplete", "--triton")),
        (("--check", ""), ("option-incomplete", "--check")),
        (("ENGINE", "--shutdown-timeout", "1e999s"), ("invalid-duration", "1e999s")),
        (("ENGINE", "--startup-timeout", "0s"), ("invalid-duration", "0s")),
        (("folder", "--poll", "0.3s"), ("invalid-duration", "0.3s")),
        (("ENGINE", "--host", "203.0.113.1"), ("address-unavailable", "203.0.113.1:8000")),
        (("ENGINE", "--shutdown-timeout", "soon"), ("invalid-duration", "'soon'")),
        (("ENGINE", "--max-body", "much"), ("invalid-memory-target", "'much'")),
        (("ENGINE", *FREE_PORTS, "--max-body", "2GiB"), ("invalid-request-limit", "2 GiB")),
        (("ENGINE", *FREE_PORTS, "--max-body", "0.5KiB"), ("request-limit-too-small", "512 bytes")),
        (("ENGINE", "--max-latency", "10"), ("unit-missing", "10")),
        (("ENGINE", "--poll", "3s"), ("option-not-applicable", "--poll")),
        (("folder", "--no-images"), ("option-not-applicable", "--no-images")),
        (("folder", "--max-latency", "9ms"), ("option-not-applicable", "--max-latency")),
        (("--check", "folder", "--backend", "python"), ("option-not-applicable", "--backend")),
        (("ENGINE", "--python", "folder"), ("triton-python-unusable", "folder")),
    ],
)
def test_a_mistake_gives_one_sentence_and_a_fix(run, engine, tmp_path, arguments, expected):
    triton()
    (tmp_path / "folder").mkdir()
    given = [str(engine) if each == "ENGINE" else each for each in arguments]
    needs_no_triton = {"--python", "--triton", "--check"} & set(given)
    done = run(*(["serve", *given] if needs_no_triton else serve_arguments(*given)))
    assert done.status == 2
    error, fix = done.err.splitlines()[-2:]
    assert done.code == expected[0]
    assert expected[1] in error
    assert fix.startswith("  fix: ")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("old", "new"), [("--drain", "--shutdown-timeout"), ("--ready", "--startup-timeout")]
)
def test_an_old_option_name_works_with_a_note(run, engine, old, new):
    done = run("serve", str(engine), old, "soon")
    assert done.code == "invalid-duration"
    assert f"note: {old} is now {new}" in done.err


def test_check_exits_with_3_for_a_repository_that_disagrees(run, engine, tmp_path):
    assert run("serve", "--triton", "models", str(engine), "--name", "colours").status == 0
    assert run("serve", "--check", "models").status == 0
    config = tmp_path / "models" / "colours" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: 8", "dims: 9"))
    done = run("serve", "--check", "models", "--json")
    assert done.status == 3
    (finding,) = json.loads(done.out)["findings"]
    assert "its configuration says input FP32 (3, 9, 9)" in finding["problem"]


def test_the_client_reports_an_unreachable_server(run, tmp_path):
    Image.new("RGB", (SIDE_PX, SIDE_PX)).save(tmp_path / "a.png")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", f"grpc://127.0.0.1:{port}"):
        done = run("client", "a.png", "--url", url)
        assert done.status == 2
        assert done.code == "server-unreachable"
    assert run("client", "a.png", "--url", "ftp://there").code == "invalid-url"


def test_a_file_with_a_version_name_is_ignored(run, engine, tmp_path):
    assert run("serve", "--triton", "models", str(engine), "--name", "colours").status == 0
    (tmp_path / "models" / "colours" / "7").write_text("")
    done = run("serve", "--check", "models", "--json")
    assert done.status == 0
    (model, *_) = json.loads(done.out)["models"]
    assert model["versions"] == [1]
    assert run("serve", "--triton", "models", str(engine), "--name", "colours").status == 0
