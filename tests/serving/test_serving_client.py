"""The client with servers that misbehave, and how a server is announced."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from deploykit.cli.notes import print_notes
from deploykit.cli.serve import _announce
from deploykit.serving import client
from deploykit.serving.repository.names import version_numbers
from deploykit.serving.triton.process import is_ready
from deploykit.serving.triton.server import Server


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """Run a server that gives the same answer to every request; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  # http.server's

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_readiness_ignores_the_environments_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with answering(200, b"") as port:
        assert is_ready(port)
    with answering(503, b"") as port:
        assert not is_ready(port)
    assert not is_ready(port)


def refused(run, tmp_path, *arguments: str):
    """The client's outcome: an error of one sentence, and a fix."""
    (tmp_path / "a.png").write_bytes(b"no image")
    done = run("client", "a.png", *arguments)
    assert done.status == 2
    _, fix = done.err.splitlines()
    assert fix.startswith("  fix: ")
    return done


@pytest.mark.parametrize(
    "url",
    [
        *("http://[::1", "http://127.0.0.1:abc", "grpc://there:99999", "http://", "x://y"),
        *("http://there:8000/v2", "http://there:8000/?a=b", "http://there:8000#a", "grpc://me:secret@there"),
    ],
)
def test_an_invalid_url_is_refused(run, tmp_path, url):
    done = refused(run, tmp_path, "--url", url)
    assert done.code == "invalid-url"
    assert f"'{url}'" in done.err
    assert "http://HOST:8000" in done.err


@pytest.mark.parametrize("model", [(), ("--model", "flowers-image")])
@pytest.mark.parametrize("body", [b"<html></html>", b"{}", b"[1]", b'{"inputs": 3}', b"null", b"\xff"])
def test_a_server_of_another_protocol_is_an_error(run, tmp_path, body, model):
    with answering(200, body) as port:
        done = refused(run, tmp_path, "--url", f"http://127.0.0.1:{port}", *model)
    assert done.code == "server-protocol-mismatch"


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_silent_server_is_a_timeout(run, tmp_path, monkeypatch, scheme):
    monkeypatch.setattr(client, "_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        done = refused(run, tmp_path, "--url", url)
    assert done.code == "server-unreachable"
    assert f"{url} (timed out)" in done.err


def test_interrupting_the_client_prints_no_traceback(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "deploykit", "client", _file(tmp_path), "--url", url]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        asking, _ = silent.accept()
        with asking:
            asking.recv(1)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "stopped; no result was written"


@pytest.mark.parametrize(
    ("status", "problem", "way_out"),
    [
        (413, "a body of 9 bytes exceeds the limit of 8", "a larger --max-body"),
        (400, "in ensemble 'a-image', The image is not a readable image (cut off)", "give JPEG, PNG"),
        (400, "Request for unknown model", "check the names of the models"),
        (503, "the upstream server does not answer", "check the names of the models"),
    ],
)
def test_the_fix_depends_on_the_refusal(tmp_path, status, problem, way_out):
    body = json.dumps({"error": problem}).encode()
    with answering(status, body) as port:
        asked = client.Client(f"http://127.0.0.1:{port}")
        with pytest.raises(client.DeployError) as caught:
            asked._classify_one(_file(tmp_path), "a-image", {"logits": [-1, 3]}, 5)
    assert problem in caught.value.problem
    assert way_out in caught.value.fix


def _file(folder):
    path = folder / "a.png"
    path.write_bytes(b"some image")
    return path


@pytest.mark.parametrize(
    ("host", "shown", "is_open"),
    [
        ("127.0.0.1", "127.0.0.1", False),
        ("::1", "[::1]", False),
        ("localhost", "localhost", False),
        ("0.0.0.0", "0.0.0.0", True),
        ("::", "[::]", True),
    ],
)
def test_the_client_accepts_the_announced_urls(capsys, host, shown, is_open):
    proxies = [SimpleNamespace(port=port) for port in (8000, 8001, 8002)]
    server = Server(SimpleNamespace(pid=1), proxies, host, ("flowers",))
    _announce(server, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["http"] == f"http://{shown}:8000"
    assert found["grpc"] == f"grpc://{shown}:8001"
    assert found["metrics"] == f"http://{shown}:8002/metrics"
    client.Client(found["http"])
    client.Client(found["grpc"])
    _announce(server, as_json=False)
    print_notes()
    printed = capsys.readouterr()
    assert f"ready: {found['http']}, {found['grpc']}, {found['metrics']}\n" in printed.out
    assert ("There is no authentication" in printed.err) == is_open


def test_a_file_is_not_a_version(tmp_path):
    (tmp_path / "7").write_text("")
    (tmp_path / "2").mkdir()
    assert version_numbers(tmp_path) == (2,)
