"""A real Triton, from nvidia-pytriton's wheel, answers requests."""

import io
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from refusals import refuses
from served import ROOT, flat_images, photo
from served_models import B0, BATCHED, COLOURS, ask
from waiting import wait_for

from deploykit.runtime import Engine
from deploykit.serving.client import Client
from deploykit.util.errors import DeployError

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_triton_answers_as_the_engine_does_bit_for_bit(served, protocol, count):
    images = np.random.default_rng(count).standard_normal((count, 3, 64, 64), np.float32)
    module = getattr(tritonclient, protocol)
    client = served.client() if protocol == "http" else served.grpc()
    answer = ask(client, module, B0, images)
    with Engine.load(served.b0) as engine:
        np.testing.assert_array_equal(answer, engine(images))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_encoded_image_gets_the_same_answer_as_its_pixels(served, kind):
    encoded = photo(1, side_px=80, kind=kind)
    image = tritonclient.http.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[encoded]], np.object_))
    answer = served.client().infer(f"{B0}-image", [image]).as_numpy("logits")
    with Engine.load(served.b0) as engine:
        preprocessing = engine.manifest.model.preprocessing
        pixels = preprocessing.crop(Image.open(io.BytesIO(encoded)))[None]
        np.testing.assert_array_equal(answer, engine(preprocessing.normalize(pixels)))


def test_an_image_file_can_be_posted_with_curl(served):
    url = f"{served.server.url}/v2/models/{B0}-image/infer"
    request = urllib.request.Request(url, photo(2), {"Inference-Header-Content-Length": "0"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        head = json.loads(answer.read(int(answer.headers["Inference-Header-Content-Length"])))
    assert head["outputs"][0]["shape"] == [1, 1000]


def test_10_000_requests_of_32_clients_each_get_their_own_answer(served):
    """Half of them are batched. An image of one colour gets exactly that colour as its answer."""
    clients, each = 32, 313
    with Engine.load(served.colours) as engine:
        images = flat_images(clients * each)
        expected = np.concatenate([engine(images[at : at + 1]) for at in range(len(images))])

    def work(number: int) -> int:
        module = tritonclient.grpc if number % 4 < 2 else tritonclient.http
        client = served.grpc() if number % 4 < 2 else served.client()
        right = 0
        for at in range(number * each, (number + 1) * each):
            answer = ask(client, module, BATCHED if number % 2 else COLOURS, images[at : at + 1])
            right += bool((answer == expected[at : at + 1]).all())
        return right

    with ThreadPoolExecutor(clients) as pool:
        assert sum(pool.map(work, range(clients))) == clients * each >= 10_000


def test_requests_are_batched_only_with_batching(served):
    """Triton's statistics show fewer batches than images."""

    def counts(name: str) -> np.ndarray:
        (found,) = served.client().get_inference_statistics(name)["model_stats"]
        return np.array([found["inference_count"], found["execution_count"]])

    def images_a_batch(name: str) -> float:
        def work(at: int) -> None:
            client = served.grpc()
            for _ in range(25):
                ask(client, tritonclient.grpc, name, flat_images(1, seed=at))

        before = counts(name)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))
        wait_for(lambda: (counts(name) - before)[0] == 16 * 25)  # it counts after it answers
        images, batches = counts(name) - before
        return images / batches

    assert images_a_batch(COLOURS) == 1
    assert images_a_batch(BATCHED) > 1.2


def test_all_ports_listen_on_loopback_only(served):
    text = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    rows = [line.split() for line in text.splitlines() if ": " in line and "local" not in line]
    listening = [row[1].split(":") for row in rows if row[3] == "0A"]
    ports = served.server.ports
    found = [
        address for address, port in listening if int(port, 16) in (ports.http, ports.grpc, ports.metrics)
    ]
    assert len(found) >= 3
    assert {address[-8:] for address in found} == {"0100007F"}


def test_metrics_are_in_prometheus_format(served):
    url = f"http://127.0.0.1:{served.server.ports.metrics}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    assert f'nv_inference_request_success{{model="{COLOURS}",version="1"}}' in text


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_client_returns_labels_and_probabilities(served, tmp_path, protocol):
    path = tmp_path / "photo.png"
    path.write_bytes(photo(3))
    port = getattr(served.server.ports, protocol)
    (answer,) = Client(f"{protocol}://127.0.0.1:{port}").classify([path], f"{B0}-image", top=3)
    with Engine.load(served.b0) as engine:
        preprocessing = engine.manifest.model.preprocessing
        (logits,) = engine(preprocessing.normalize(preprocessing.crop(Image.open(path))[None]))
    odds = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    likeliest = np.argsort(-odds)[:3]
    assert [each.label for each in answer.odds] == [f"class {at}" for at in likeliest]
    assert [each.probability for each in answer.odds] == pytest.approx(odds[likeliest], rel=1e-3)


def test_the_client_command_prints_labels_and_times(served, run, tmp_path):
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
    there = ("--url", served.server.url, "--model")
    done = run("client", "red.png", *there, f"{COLOURS}-image")
    assert done.status == 0
    assert "57.61 % 0" in done.out  # logits of 1, 0 and 0: e / (e + 2)
    assert f"{COLOURS}-image, version 1: median" in done.out
    (tmp_path / "bad.png").write_bytes(b"no image")
    half = run("client", "red.png", "bad.png", *there, f"{COLOURS}-image")
    assert (half.status, "57.61 % 0" in half.out, "is not a readable image" in half.err) == (2, True, True)
    assert run("client", "nothing.png", *there, f"{COLOURS}-image").code == "file-not-found"
    assert run("client", "red.png", *there, COLOURS).code == "served-model-wrong-input"
    assert "unknown model: 'roses'" in run("client", "red.png", *there, "roses").err


def test_the_client_suggests_the_other_protocol_for_a_wrong_port(served):
    for url in (
        f"http://127.0.0.1:{served.server.ports.grpc}",
        f"grpc://127.0.0.1:{served.server.ports.http}",
    ):
        with pytest.raises(DeployError) as caught:
            Client(url).find_image_model()
        assert "--url http://HOST:8000, or --url grpc://HOST:8001" in caught.value.fix


def test_several_image_models_need_a_choice(served):
    with refuses("served-model-ambiguous") as caught:
        list(Client(served.server.url).classify([ROOT / "README.md"]))
    assert "--model" in caught.value.fix


def test_the_client_in_the_documentation_works(served, tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "serving.md").read_text()
    (code,) = [part.split("```")[0] for part in text.split("```python\n") if "tritonclient" in part]
    assert len(code.strip().splitlines()) <= 10
    (tmp_path / "photo.jpg").write_bytes(photo(4, kind="JPEG"))
    monkeypatch.chdir(tmp_path)
    exec(code.replace("127.0.0.1:8000", served.address), {})
    assert "class " in capsys.readouterr().out
