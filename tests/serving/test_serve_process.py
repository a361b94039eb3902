"""deploykit serve in its own process: started, stopped, killed, and given new versions."""

import json
import os
import shutil
import signal
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
from served import FREE_PORTS, colours, flat_images, serve_arguments, triton
from small_models import colour_blocks
from solid_colours import SIDE_PX
from tritonclient.utils import InferenceServerException
from waiting import wait_for

from deploykit.serving.repository.options import ModelOptions
from deploykit.serving.repository.write import write_repository
from deploykit.util.local_gpu import local_gpu

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Path:
    return colours(tmp_path_factory.mktemp("engine"))


@contextmanager
def started(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen, dict]]:
    """Start deploykit serve in its own process, and wait until it is ready."""
    triton()  # skips if it is not installed
    command = [sys.executable, "-m", "deploykit", *serve_arguments(*arguments, *FREE_PORTS, "--json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
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
    """Clients that send requests without a pause until refused or stopped, and what became of them."""

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
                # gRPC refuses calls that were not accepted this way. Over HTTP no request may be lost.
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


def test_stopping_under_load_answers_every_accepted_request_and_succeeds(engine):
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


def test_a_killed_server_leaves_no_processes(engine, tmp_path, monkeypatch):
    before = set(Path("/dev/shm").glob("deploykit-*"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the killed process can't remove its files
    with started(engine, "--name", "colours", "--no-images") as (process, found):
        process.kill()
        process.wait()
        wait_for(lambda: not Path(f"/proc/{found['pid']}").exists())
    for each in set(Path("/dev/shm").glob("deploykit-*")) - before:
        each.unlink()


def test_a_triton_that_exits_is_an_error(engine):
    with started(engine, "--name", "colours", "--no-images") as (process, found):
        os.kill(found["pid"], signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "with status -9" in said
    assert "[triton-exited]" in said


def test_new_versions_load_while_serving_and_bad_ones_never_replace_good_ones(engine, tmp_path):
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
        bad.rename(models / "colours" / "3")  # not through deploykit, which would have refused it
        for _ in range(2):  # Triton retries at every poll
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
    events = [line for line in said.splitlines() if line.startswith("note: ")]
    first, bad, last = events  # each once, however often Triton polled
    assert (first, last) == (
        "note: Triton has loaded colours, version 2.",
        "note: Triton has loaded colours, version 4.",
    )
    assert "can't load colours, version 3: " in bad
    assert "stays in service" in bad


def version_state(client, version: str) -> str | None:
    index = client.get_model_repository_index()
    return next((each["state"] for each in index if each.get("version") == version), None)


@pytest.mark.parametrize("after_s", [0.9, 1.4])  # startup takes one to three seconds
def test_stopping_during_startup_leaves_no_processes(engine, after_s):
    def helpers() -> set[str]:
        return {each.parent.name for each in Path("/proc").glob("[0-9]*/cmdline") if is_helper(each)}

    triton()
    before = helpers()
    command = [sys.executable, "-m", "deploykit", *serve_arguments(engine, *FREE_PORTS)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(after_s)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    wait_for(lambda: not helpers() - before)


def is_helper(cmdline: Path) -> bool:
    try:
        return b"triton_python_backend_stub" in cmdline.read_bytes()
    except OSError:  # the process has ended
        return False


def test_a_model_that_triton_cannot_load_is_an_error(run, engine, tmp_path):
    """Its configuration was edited, and holds a value that makes no sense."""
    triton()
    write_repository(
        tmp_path / "models", [engine], ModelOptions(name="colours", backend="python", images=False)
    )
    with (tmp_path / "models" / "colours" / "config.pbtxt").open("a") as config:
        config.write('parameters { key: "threads" value { string_value: "many" } }\n')
    done = run(*serve_arguments(tmp_path / "models", *FREE_PORTS))
    assert done.status == 2
    assert "Triton can't load colours, version 1: invalid literal for int() with base 10: 'many'." in done.err
    assert len(done.err.splitlines()) == 2


@pytest.mark.skipif(local_gpu() is not None, reason="this machine has a GPU")
def test_an_engine_for_a_gpu_is_refused_without_one(run, tmp_path):
    triton()
    colour_blocks(tmp_path / "colours.onnx")
    assert run("build-engine", "--onnx", "colours.onnx", "--gpu", "T4").status == 0
    done = run(*serve_arguments("colours.fp16.sm75.engine", "--name", "colours", *FREE_PORTS))
    assert done.status == 2
    assert done.code == "triton-load-failed"
    assert "colours, version 1: it is for an NVIDIA GPU" in done.err
    assert "--gpu cpu" in done.err


@pytest.fixture(scope="module")
def ipv6_server(engine) -> Iterator[dict]:
    """What a server on ::1 with a small body limit announces."""
    with started(engine, "--host", "::1", "--max-body", "32KiB") as (_, found):
        yield found


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_client_accepts_the_ipv6_urls_that_serve_prints(run, ipv6_server, tmp_path, protocol):
    url = ipv6_server[protocol]
    assert "://[::1]:" in url
    Image.new("RGB", (SIDE_PX, SIDE_PX)).save(tmp_path / "a.png")
    assert run("client", "a.png", "--url", url).status == 0
    (tmp_path / "b.png").write_bytes(b"no image")
    done = run("client", "b.png", "--url", url)
    assert (done.status, done.code) == (2, "server-refused")
    assert "fix: give JPEG, PNG" in done.err


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_body_over_the_limit_suggests_max_body(run, ipv6_server, tmp_path, protocol):
    (tmp_path / "a.png").write_bytes(bytes(2**16))
    done = run("client", "a.png", "--url", ipv6_server[protocol])
    assert (done.status, done.code) == (2, "server-refused")
    assert "exceeds the limit of 32768" in done.err
    assert "--max-body" in done.err
