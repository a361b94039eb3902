"""The examples in examples/serving run unchanged."""

import asyncio
import importlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kubernetes_validate
import numpy as np
import pytest
import starlette.requests
import yaml
from PIL import Image
from refusals import refuses
from served import ROOT, photo

from deploykit.engine.build import build_engine
from deploykit.engine.shapes import BatchRange
from deploykit.runtime import Engine

EXAMPLES = ROOT / "examples" / "serving"


@pytest.fixture(scope="module")
def engine(random_b0, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("engine") / "e.onnx"
    return build_engine(
        onnx=random_b0.path, gpu="cpu", batches=[BatchRange(min=1, opt=8, max=16)], output=output
    ).path


@contextmanager
def process(command: list[str], environment: dict[str, str], url: str, body: bytes) -> Iterator[None]:
    """Run a server until the block ends, once it answers."""
    started = subprocess.Popen(
        command,
        cwd=EXAMPLES,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            assert started.poll() is None
            try:
                ask(url, body)
            except (OSError, urllib.error.URLError):
                time.sleep(0.1)
            else:
                break
        yield
    finally:
        started.terminate()
        started.wait(timeout=60)


def ask(url: str, body: bytes) -> dict[str, float]:
    with urllib.request.urlopen(url, body, timeout=30) as answer:  # loopback
        return json.load(answer)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def expected(path: Path, seed: int) -> dict[str, float]:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)[None]
    with Engine.load(path) as engine:
        logits = engine(engine.manifest.model.preprocessing.normalize(pixels))[0].astype(float)
    odds = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    return {str(at): odds[at] for at in odds.argsort()[:-6:-1]}


def many_pixels() -> bytes:
    """A PNG of 64 megapixels, in a few KB; the limit is 50."""
    written = io.BytesIO()
    Image.new("1", (8000, 8000)).save(written, "PNG")
    return written.getvalue()


def assert_refuses_invalid_images(url: str) -> None:
    for body, status in ((b"no image", 400), (many_pixels(), 400), (bytes(20_000_001), 413)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(url, body)
        assert caught.value.code == status


def test_an_engine_failure_in_fastapi_is_not_blamed_on_the_image(engine, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # the application sets it
    application = importlib.import_module("fastapi_app")

    async def body() -> dict[str, object]:
        return {"type": "http.request", "body": photo(0)}

    with Engine.load(engine) as application.app.state.engine:
        pass
    request = starlette.requests.Request({"type": "http"}, body)
    with refuses("engine-closed"):
        asyncio.run(application.classify(request))


def test_the_fastapi_application_answers(engine):
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/classify"
    with process(command, {"ENGINE": str(engine)}, url, photo(0)):
        for seed in range(3):
            assert ask(url, photo(seed)) == pytest.approx(expected(engine, seed), rel=1e-3)
        assert_refuses_invalid_images(url)
        assert len(ask(url, photo(0))) == 5


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A short path for Ray's sockets, as the system limits their length."""
    with tempfile.TemporaryDirectory(prefix="ray") as name:
        yield Path(name)


@pytest.mark.integration
def test_the_ray_serve_deployment_answers(engine, tmp_path, short_folder):
    pytest.importorskip("ray.serve", reason="needs ray[serve]")
    port, code = free_port(), tmp_path / "run.py"
    code.write_text(
        "import signal, sys, time\n"
        "import ray\n"
        "from ray import serve\n"
        f"sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False,\n"
        f"    object_store_memory=100_000_000, _temp_dir={str(short_folder)!r})\n"
        f"serve.start(http_options={{'host': '127.0.0.1', 'port': {port}}})\n"
        "from ray_serve_app import app\n"
        "serve.run(app)\n"
        "time.sleep(600)\n"
    )
    url = f"http://127.0.0.1:{port}/"
    paths = os.pathsep.join(filter(None, [str(EXAMPLES), os.environ.get("PYTHONPATH", "")]))
    environment = {"ENGINE": str(engine), "PYTHONPATH": paths, "HOME": str(tmp_path)}
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    with process([sys.executable, str(code)], environment, url, photo(0)):
        for seed in range(3):
            assert ask(url, photo(seed)) == pytest.approx(expected(engine, seed), rel=1e-3)
        assert_refuses_invalid_images(url)


@pytest.mark.integration
def test_a_ray_replica_without_an_engine_can_be_deleted(engine, monkeypatch):
    pytest.importorskip("ray.serve", reason="needs ray[serve]")
    monkeypatch.setenv("ENGINE", str(engine))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    classifier = importlib.import_module("ray_serve_app").Classifier.func_or_class
    classifier.__del__(classifier.__new__(classifier))


def test_the_kubernetes_manifests_are_valid():
    manifests = list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))
    assert [each["kind"] for each in manifests] == [
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
    ]
    for each in manifests:
        kubernetes_validate.validate(each, "1.31", strict=True)


def test_an_invalid_kubernetes_manifest_is_detected():
    (deployment, *_) = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["startupProbe"]["failureTreshold"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.31", strict=True)
