"""examples/http_server.py runs unchanged."""

import http.client
import io
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploykit.engine.build import build_engine
from deploykit.networks.export import prepare_export
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.onnx_tools.uint8_input import with_uint8_input
from deploykit.runtime import Engine

SERVER = Path(__file__).parents[2] / "examples" / "http_server.py"


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "uint8"])
def engine(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    network, weights, info = prepare_export(0, side_px=32)
    graph = build_onnx_model(
        network, weights, replace(info, input_type="uint8" if request.param else "float32")
    )
    if request.param:
        graph = with_uint8_input(graph, info.preprocessing)
    model = folder / "model.onnx"
    model.write_bytes(to_bytes(graph))
    return build_engine(onnx=model, gpu="cpu", output=folder / "e.onnx").path


@pytest.fixture(scope="module")
def address(engine) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, SERVER, engine, str(port)], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int, server: subprocess.Popen) -> None:
    for _ in range(300):
        assert server.poll() is None
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError


def ask(address: str, body: bytes) -> dict[int, float]:
    with urllib.request.urlopen(address, body, timeout=60) as answer:  # loopback
        return {int(at): odds for at, odds in json.load(answer).items()}


def photo(seed: int) -> tuple[np.ndarray, bytes]:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return pixels, written.getvalue()


def test_the_example_has_fewer_than_40_lines():
    assert len(SERVER.read_text().splitlines()) < 40


def test_each_concurrent_client_gets_the_answer_to_its_own_image(address, engine):
    photos = [photo(seed) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda each: ask(address, each[1]), photos))
    with Engine.load(engine) as loaded:
        for (pixels, _), answer in zip(photos, answers, strict=True):
            given = pixels[None]
            if loaded.manifest.input.dtype == "float32":
                given = loaded.manifest.model.preprocessing.normalize(given)
            logits = loaded(given)[0].astype(float)
            odds = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            assert answer == pytest.approx({at: odds[at] for at in answer}, rel=1e-3)
            assert max(answer.values()) == pytest.approx(odds.max(), rel=1e-3)


def test_an_invalid_image_is_an_error_and_the_next_request_is_answered(address):
    for body in (b"no image", b"", photo(0)[1][:100]):
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(address, body)
        assert caught.value.code == 400
    for length in ("-1", "20000001", "long"):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        connection.putrequest("POST", "/")
        connection.putheader("Content-Length", length)
        connection.endheaders()
        assert connection.getresponse().status == 400
        connection.close()
    assert len(ask(address, photo(0)[1])) == 5
