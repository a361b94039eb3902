"""deploykit serve and client as their users meet them: started, stopped, and asked for what can't be."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from served import colours, flat_images, python, triton
from small_models import colour_blocks
from solid_colours import SIDE_PX
from tritonclient.utils import InferenceServerException
from waiting import wait_for

from deploykit.serving.repository.options import ModelOptions
from deploykit.serving.repository.write import write_repository
from deploykit.util.local_gpu import local_gpu

ANY = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    return colours(tmp_path_factory.mktemp("engine"))


@contextmanager
def started(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen, dict]]:
    """deploykit serve in a process of its own, ready."""
    triton()  # skips where there is none
    which = ("--python", python()) if python() else ()
    command = [sys.executable, "-m", "deploykit", "serve", *arguments, *ANY, *which, "--json"]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            text += line
        yield process, json.loads(text)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def answer(module, url: str, model: str, images: np.ndarray, client=None) -> np.ndarray:
    client = client or module.InferenceServerClient(url.partition("://")[2])
    given = module.InferInput("input", images.shape, "FP32")
    given.set_data_from_numpy(images)
    return client.infer(model, [given]).as_numpy("logits")


class Load:
    """Clients that ask without a pause until refused or stopped, and what became of what they sent."""

    def __init__(self, found: dict, model: str) -> None:
        self._found, self._model = found, model
        self.right, self.wrong, self.lost, self.refused = 0, 0, [], 0
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(at,)) for at in range(8)]
        for each in self._threads:
            each.start()

    def _ask(self, at: int) -> None:
        module, url = [
            (tritonclient.http, self._found["http"]),
            (tritonclient.grpc, self._found["grpc"]),
        ][at % 2]
        client = module.InferenceServerClient(url.partition("://")[2])
        images = flat_images(1, seed=at)
        while not self._stopped.is_set():
            try:
                given = answer(module, url, self._model, images, client)
            except ConnectionRefusedError:
                self._count("refused")
                return
            except (InferenceServerException, OSError) as error:
                # So gRPC refuses what was not taken; over HTTP nothing that was sent may be dropped.
                if module is tritonclient.grpc and "UNAVAILABLE" in str(error):
                    self._count("refused")
                else:
                    self.lost.append(f"{module.__name__}: {error!r} {error}")
                return
            self._count("right" if np.allclose(given, images[:, :, 0, 0], rtol=1e-6) else "wrong")

    def _count(self, what: str) -> None:
        with self._lock:
            setattr(self, what, getattr(self, what) + 1)

    def end(self) -> None:
        self._stopped.set()
        for each in self._threads:
            each.join(timeout=60)
            assert not each.is_alive()


def test_stopped_under_load_it_answers_all_it_has_taken_and_ends_with_success(engine):
    with started(engine, "--name", "colours") as (process, found):
        load = Load(found, "colours")
        wait_for(lambda: load.right > 200)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        wait_for(lambda: load.refused + len(load.lost) == 8)
        load.end()
    assert process.returncode == 0, said
    assert "finishing running requests" in said
    assert load.lost == []
    assert load.wrong == 0
    assert load.refused == 8


def test_what_it_started_is_gone_with_it_even_when_it_is_killed(engine, tmp_path, monkeypatch):
    before = set(Path("/dev/shm").glob("deploykit-*"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # nobody is left to remove what it had there
    with started(engine, "--name", "colours", "--no-images") as (process, found):
        process.kill()
        process.wait()
        wait_for(lambda: not Path(f"/proc/{found['pid']}").exists())
    for each in set(Path("/dev/shm").glob("deploykit-*")) - before:
        each.unlink()


def test_a_triton_that_ends_by_itself_ends_it_with_a_sentence(engine):
    with started(engine, "--name", "colours", "--no-images") as (process, found):
        os.kill(found["pid"], signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "with status -9" in said
    assert "[triton-exited]" in said


def test_new_versions_are_taken_while_it_serves_and_bad_ones_never_replace_good_ones(engine, tmp_path):
    models = tmp_path / "models"
    options = ModelOptions(name="colours", backend="python", images=False)
    write_repository(models, [engine], options)
    (tmp_path / "newer").mkdir()
    newer = colours(tmp_path / "newer", max_batch=64)
    with started(models, "--poll", "1s") as (process, found):
        client = tritonclient.http.InferenceServerClient(found["http"].partition("://")[2])
        load = Load(found, "colours")
        write_repository(models, [newer], options)
        wait_for(lambda: client.is_model_ready("colours", "2"))
        bad = tmp_path / "bad"
        shutil.copytree(models / "colours" / "2", bad)
        (bad / "model.cpu.engine").write_bytes(b"no engine")
        bad.rename(models / "colours" / "3")  # behind deploykit's back, which would have refused it
        for _ in range(2):  # it tries again and again
            wait_for(lambda: version_state(client, "3") == "UNAVAILABLE")
            time.sleep(1.5)
        assert client.is_server_ready()
        assert version_state(client, "2") == "READY"
        write_repository(models, [engine], options)
        wait_for(lambda: client.is_model_ready("colours", "4"))
        wait_for(lambda: load.right > 200)
        load.end()
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert (load.lost, load.wrong, load.refused) == ([], 0, 0)
    news = [line for line in said.splitlines() if line.startswith("note: ")]
    first, bad, last = news  # each once, however often Triton looked
    assert (first, last) == (
        "note: Triton has loaded colours, version 2.",
        "note: Triton has loaded colours, version 4.",
    )
    assert "can't load colours, version 3: " in bad
    assert "stays in service" in bad


def version_state(client, version: str) -> str | None:
    index = client.get_model_repository_index()
    return next((each["state"] for each in index if each.get("version") == version), None)


@pytest.mark.parametrize("after_s", [0.9, 1.4])  # it starts in one to three seconds
def test_stopped_while_it_starts_it_leaves_no_process(engine, after_s):
    def helpers() -> set[str]:
        return {each.parent.name for each in Path("/proc").glob("[0-9]*/cmdline") if is_helper(each)}

    triton()
    before = helpers()
    command = [sys.executable, "-m", "deploykit", *own(engine, *ANY)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(after_s)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    wait_for(lambda: not helpers() - before)


def is_helper(cmdline: Path) -> bool:
    try:
        return b"triton_python_backend_stub" in cmdline.read_bytes()
    except OSError:  # gone meanwhile
        return False


# --- mistakes


def own(*arguments: object) -> list[str]:
    which = ("--python", python()) if python() else ()
    return [str(each) for each in ("serve", *arguments, *which)]


def test_a_port_that_is_taken_is_named_with_a_way_out(run, engine):
    triton()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(*own(engine, "--http-port", port, "--grpc-port", "0", "--metrics-port", "0"))
    assert done.status == 2
    assert done.code == "address-unavailable"
    assert f"127.0.0.1:{port}: address already in use" in done.err
    assert "--http-port" in done.err


def test_a_backend_that_this_triton_has_not_is_named_with_a_way_out(run, engine, tmp_path):
    if not triton().is_bundled:
        pytest.skip("this Triton may have it")
    write_repository(tmp_path / "models", [engine], ModelOptions(name="colours"))
    done = run(*own(tmp_path / "models", *ANY))
    assert done.status == 2
    assert done.code == "triton-backend-missing"
    assert "--backend python" in done.err


def test_an_engine_that_triton_cannot_load_is_a_sentence(run, engine, tmp_path):
    """By a configuration that may be tuned, and was to no purpose."""
    triton()
    write_repository(
        tmp_path / "models", [engine], ModelOptions(name="colours", backend="python", images=False)
    )
    with (tmp_path / "models" / "colours" / "config.pbtxt").open("a") as config:
        config.write('parameters { key: "threads" value { string_value: "many" } }\n')
    done = run(*own(tmp_path / "models", *ANY))
    assert done.status == 2
    assert "Triton can't load colours, version 1: invalid literal for int() with base 10: 'many'." in done.err
    assert len(done.err.splitlines()) == 2


@pytest.mark.skipif(local_gpu() is not None, reason="this machine has a GPU")
def test_an_engine_for_a_gpu_is_refused_where_none_is(run, tmp_path):
    triton()
    colour_blocks(tmp_path / "colours.onnx")
    assert run("build-engine", "--onnx", "colours.onnx", "--gpu", "T4").status == 0
    done = run(*own("colours.fp16.sm75.engine", "--name", "colours", *ANY))
    assert done.status == 2
    assert done.code == "triton-load-failed"
    assert "colours, version 1: it is for an NVIDIA GPU" in done.err
    assert "--gpu cpu" in done.err


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
        (("ENGINE", "--host", ""), ("address-missing", "--host")),
        (("--triton", "", "ENGINE"), ("option-incomplete", "--triton")),
        (("--check", ""), ("option-incomplete", "--check")),
        (("ENGINE", "--shutdown-timeout", "1e999s"), ("invalid-duration", "1e999s")),
        (("ENGINE", "--startup-timeout", "0s"), ("invalid-duration", "0s")),
        (("folder", "--poll", "0.3s"), ("invalid-duration", "0.3s")),
        (("ENGINE", "--host", "203.0.113.1"), ("address-unavailable", "203.0.113.1:8000")),
        (("ENGINE", "--shutdown-timeout", "soon"), ("invalid-duration", "'soon'")),
        (("ENGINE", "--max-body", "much"), ("invalid-memory-target", "'much'")),
        (("ENGINE", *ANY, "--max-body", "2GiB"), ("invalid-request-limit", "2 GiB")),
        (("ENGINE", *ANY, "--max-body", "0.5KiB"), ("request-limit-too-small", "512 bytes")),
        (("ENGINE", "--max-latency", "10"), ("unit-missing", "10")),
        (("ENGINE", "--poll", "3s"), ("option-not-applicable", "--poll")),
        (("folder", "--no-images"), ("option-not-applicable", "--no-images")),
        (("folder", "--max-latency", "9ms"), ("option-not-applicable", "--max-latency")),
        (("--triton", "models", "ENGINE", "-v"), ("option-not-applicable", "--verbose")),
        (("--check", "folder", "--backend", "python"), ("option-not-applicable", "--backend")),
        (("ENGINE", "--python", "folder"), ("triton-python-unusable", "folder")),
    ],
)
def test_a_mistake_is_one_sentence_and_a_fix(run, engine, tmp_path, arguments, expected):
    triton()
    (tmp_path / "folder").mkdir()
    given = [str(engine) if each == "ENGINE" else each for each in arguments]
    is_done_without = {"--python", "--triton", "--check"} & set(given)
    done = run(*(["serve", *given] if is_done_without else own(*given)))
    assert done.status == 2
    error, fix = done.err.splitlines()[-2:]
    assert done.code == expected[0]
    assert expected[1] in error
    assert fix.startswith("  fix: ")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_a_repository_that_disagrees_exits_with_3(run, engine, tmp_path):
    assert run("serve", "--triton", "models", str(engine), "--name", "colours").status == 0
    assert run("serve", "--check", "models").status == 0
    config = tmp_path / "models" / "colours" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: 8", "dims: 9"))
    done = run("serve", "--check", "models", "--json")
    assert done.status == 3
    (finding,) = json.loads(done.out)["findings"]
    assert "its configuration says input FP32 (3, 9, 9)" in finding["problem"]


def test_the_client_says_that_nobody_answers(run, tmp_path):
    Image.new("RGB", (SIDE_PX, SIDE_PX)).save(tmp_path / "a.png")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", f"grpc://127.0.0.1:{port}"):
        done = run("client", "a.png", "--url", url)
        assert done.status == 2
        assert done.code == "server-unreachable"
    assert run("client", "a.png", "--url", "ftp://there").code == "invalid-url"


def test_a_file_that_is_called_as_a_version_is_passed_over(run, engine, tmp_path):
    assert run("serve", "--triton", "models", str(engine), "--name", "colours").status == 0
    (tmp_path / "models" / "colours" / "7").write_text("")
    done = run("serve", "--check", "models", "--json")
    assert done.status == 0
    (model, *_) = json.loads(done.out)["models"]
    assert model["versions"] == [1]
    assert run("serve", "--triton", "models", str(engine), "--name", "colours").status == 0


def test_what_serve_prints_of_an_ipv6_address_the_client_takes(run, engine, tmp_path):
    Image.new("RGB", (SIDE_PX, SIDE_PX)).save(tmp_path / "a.png")
    with started(engine, "--host", "::1") as (_, found):
        for url in (found["http"], found["grpc"]):
            assert "://[::1]:" in url
            assert run("client", "a.png", "--url", url).status == 0
            (tmp_path / "b.png").write_bytes(b"no image")
            done = run("client", "b.png", "--url", url)
            assert done.status == 2
            assert "fix: give JPEG, PNG" in done.err


def test_a_body_that_is_too_large_has_a_way_out(run, engine, tmp_path):
    (tmp_path / "a.png").write_bytes(bytes(2**16))
    with started(engine, "--max-body", "32KiB") as (_, found):
        for url in (found["http"], found["grpc"]):
            done = run("client", "a.png", "--url", url)
            assert done.status == 2
            assert "exceeds the limit of 32768" in done.err
            assert "--max-body" in done.err
