"""A real Triton, of nvidia-pytriton's wheel, serves."""

import contextlib
import http.client
import io
import json
import socket
import struct
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from hostile_requests import begun_call, fuzzed, infer_body, nonsense
from PIL import Image
from served import ROOT, colours, flat_images, options, photo, triton
from tritonclient.utils import InferenceServerException
from waiting import wait_for

from deploykit.engine.shapes import BatchRange
from deploykit.errors import DeployError
from deploykit.export import export_onnx
from deploykit.pipeline import build_engine
from deploykit.runtime import Engine
from deploykit.serving.client import Client
from deploykit.serving.repository.write import Options, write_repository
from deploykit.serving.triton.grpc_relay import (
    DATA,
    END_STREAM,
    PADDED,
    PREFACE,
    SETTINGS,
    encoded_frame,
)
from deploykit.serving.triton.server import Server, serving

MAX_BODY = 2**20
B0, COLOURS, BATCHED = "efficientnet-phi0", "colours", "batched"


@dataclass(frozen=True)
class Served:
    server: Server
    b0: Path
    colours: Path

    @property
    def address(self) -> str:
        return self.server.url.removeprefix("http://")

    def client(self, **more) -> tritonclient.http.InferenceServerClient:
        return tritonclient.http.InferenceServerClient(self.address, **more)

    def grpc(self) -> tritonclient.grpc.InferenceServerClient:
        return tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{self.server.ports.grpc}")


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    """B0 of 64 px with named classes; and a classifier by colour, with and without batching."""
    folder = tmp_path_factory.mktemp("served")
    labels = folder / "labels.txt"
    labels.write_text("".join(f"class {at}\n" for at in range(1000)))
    exported = export_onnx(0, side_px=64, labels=labels, output=folder / "b0.onnx")
    b0 = build_engine(
        onnx=exported.path,
        gpu="cpu",
        batches=[BatchRange(min=1, opt=2, max=4)],
        output=folder / "b0.cpu.onnx",
    ).path
    small = colours(folder)
    found, repository = triton(), folder / "models"
    alone = Options(backend="python", batching=False)
    write_repository(repository, [b0], alone)
    write_repository(repository, [small], Options(backend="python", name=COLOURS, batching=False))
    write_repository(repository, [small], Options(backend="python", name=BATCHED, images=False))
    with serving(repository, found, options(body_bytes=MAX_BODY)) as server:
        yield Served(server, b0, small)


def ask(client, module, model: str, images: np.ndarray) -> np.ndarray:
    given = module.InferInput("input", images.shape, "FP32")
    given.set_data_from_numpy(images)
    return client.infer(model, [given]).as_numpy("logits")


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_it_answers_as_the_engine_does_bit_for_bit(served, protocol, count):
    images = np.random.default_rng(count).standard_normal((count, 3, 64, 64), np.float32)
    module = getattr(tritonclient, protocol)
    client = served.client() if protocol == "http" else served.grpc()
    answer = ask(client, module, B0, images)
    with Engine.load(served.b0) as engine:
        np.testing.assert_array_equal(answer, engine(images))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_encoded_image_is_answered_as_its_pixels_are(served, kind):
    encoded = photo(1, side_px=80, kind=kind)
    image = tritonclient.http.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[encoded]], np.object_))
    answer = served.client().infer(f"{B0}-image", [image]).as_numpy("logits")
    with Engine.load(served.b0) as engine:
        preprocessing = engine.manifest.model.preprocessing
        pixels = preprocessing.crop(Image.open(io.BytesIO(encoded)))[None]
        np.testing.assert_array_equal(answer, engine(preprocessing.normalize(pixels)))


def test_a_file_is_all_that_curl_has_to_send(served):
    url = f"{served.server.url}/v2/models/{B0}-image/infer"
    request = urllib.request.Request(url, photo(2), {"Inference-Header-Content-Length": "0"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        head = json.loads(answer.read(int(answer.headers["Inference-Header-Content-Length"])))
    assert head["outputs"][0]["shape"] == [1, 1000]


def test_10_000_requests_of_32_clients_get_each_their_own_answer(served):
    """Half of them put together into batches, half one by one; a colour's answer is that colour, exactly."""
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


def test_requests_are_put_together_where_that_was_asked_for(served):
    """Triton counts what it runs: fewer batches than images."""

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
        wait_for(lambda: (counts(name) - before)[0] == 16 * 25)  # it counts after it has answered
        images, batches = counts(name) - before
        return images / batches

    assert images_a_batch(COLOURS) == 1
    assert images_a_batch(BATCHED) > 1.2


# --- requests that are wrong


def post(served: Served, path: str, body: bytes, **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(served.address, timeout=60)
    connection.request("POST", path, body, {each.replace("_", "-"): text for each, text in headers.items()})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text)


@pytest.mark.parametrize(
    ("path", "text", "expected_status", "problem"),
    [
        (COLOURS, infer_body(shape=(1, 3, 9, 9)), 400, "unexpected shape"),
        (COLOURS, infer_body(shape=(33, 3, 8, 8)), 400, "batch-size must be <= 32"),
        (COLOURS, infer_body(kind="INT32"), 400, "inference input 'input' data-type is 'INT32'"),
        (COLOURS, infer_body(name="picture"), 400, "unexpected inference input 'picture'"),
        ("roses", infer_body(), 404, "unknown model: 'roses'"),
        (f"{COLOURS}/versions/7", infer_body(), 404, "not found"),
        (COLOURS, b"no JSON", 400, "failed to parse the request"),
        (COLOURS, b"{}", 400, "Unable to parse 'inputs'"),
        (COLOURS, infer_body().replace(b"[0", b"[0, 0", 1), 400, "Unable to parse 'data'"),
        (COLOURS, b"", 400, "byte size mismatch"),
        (
            f"{COLOURS}-image",
            infer_body(name="image", kind="BYTES", shape=(1, 1)),
            400,
            "Unable to parse JSON bytes",
        ),
    ],
)
def test_a_wrong_request_gets_the_protocols_error_and_the_next_is_answered(
    served, path, text, expected_status, problem
):
    status, answer = post(served, f"/v2/models/{path}/infer", text)
    assert status == expected_status
    assert problem in answer["error"]
    assert_answers(served)


@pytest.mark.parametrize("encoded", [b"", b"no image", photo(1)[:100], photo(1, kind="JPEG")[:300]])
def test_what_is_no_image_is_refused_with_the_reason(served, encoded):
    image = tritonclient.http.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[encoded]], np.object_))
    with pytest.raises(InferenceServerException, match="is not a readable image"):
        served.client().infer(f"{COLOURS}-image", [image])
    assert_answers(served)


def test_what_is_no_image_is_the_clients_mistake_to_curl_too(served):
    path = f"/v2/models/{COLOURS}-image/infer"
    status, answer = post(served, path, b"no image", Inference_Header_Content_Length="0")
    assert (status, "is not a readable image" in answer["error"]) == (400, True)


def test_a_bad_image_spoils_no_other_request(served):
    def work(seed: int) -> bool:
        with_client = Client(served.server.url)
        path = ROOT / "README.md" if seed % 2 else None
        if path is None:
            assert_answers(served)
            return True
        with pytest.raises(DeployError, match="is not a readable image"):
            list(with_client.classify([path], f"{COLOURS}-image"))
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(16)))


def test_a_request_without_images_spoils_no_other_that_it_is_put_together_with(served):
    """Triton lets it through where its bytes are those of one."""

    def work(seed: int) -> int:
        client, images = served.grpc(), flat_images(1, seed=seed)
        given = tritonclient.grpc.InferInput("input", images.shape, "FP32")
        given.set_data_from_numpy(images)
        if seed == 0:
            given.set_shape([0, 3, 8, 8])
        right = 0
        for _ in range(200):
            with contextlib.suppress(InferenceServerException):
                answer = client.infer(BATCHED, [given]).as_numpy("logits")
                np.testing.assert_allclose(answer, images[:, :, 0, 0], rtol=1e-6)
                right += 1
        return right

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [0, 200, 200, 200]


def assert_answers(served: Served) -> None:
    images = flat_images(1, seed=9)
    answer = ask(served.client(), tritonclient.http, COLOURS, images)
    np.testing.assert_allclose(answer, images[:, :, 0, 0], rtol=1e-6)


def memory_kb(served: Served) -> int:
    """Of Triton itself."""
    status = Path(f"/proc/{served.server.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_a_body_of_2_gb_is_refused_before_it_is_read(served):
    """Triton 2.51 alone ends itself over it."""
    before = memory_kb(served)
    with socket.create_connection(served.address.split(":"), timeout=60) as client:
        length = 2**31
        client.sendall(f"POST /v2/models/{COLOURS}/infer HTTP/1.1\r\nHost: here\r\n".encode())
        client.sendall(f"Content-Length: {length}\r\n\r\n".encode() + bytes(2**22))
        answer = client.recv(2**16)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert f"more than the {MAX_BODY} that are taken" in answer.decode()
    assert_answers(served)
    assert memory_kb(served) - before < 50_000


def test_a_message_that_is_too_long_is_refused_over_grpc_and_its_connection_goes_on(served):
    """Triton alone would keep gigabytes of it."""
    client, before = served.grpc(), memory_kb(served)
    for count in (1000, 100_000):  # 0.8 and 77 MB
        problem = (
            "batch-size must be" if count == 1000 else r"RESOURCE_EXHAUSTED\] a message of 76800\d\d\d bytes"
        )
        with pytest.raises(InferenceServerException, match=problem):
            ask(client, tritonclient.grpc, COLOURS, np.zeros((count, 3, 8, 8), np.float32))
        assert ask(client, tritonclient.grpc, COLOURS, flat_images(1)).shape == (1, 3)
    assert memory_kb(served) - before < 50_000


def test_a_message_whose_length_padding_hides_is_refused_over_grpc_and_its_connection_goes_on(served):
    padded = encoded_frame(DATA, 1, b"\3" + bytes(20) + bytes(3), flags=PADDED)
    empty = encoded_frame(DATA, 3, bytes(5), flags=END_STREAM)
    live = encoded_frame(DATA, 3, b"\0\0\0\0\2" + b"\x08\1")
    with socket.create_connection(("127.0.0.1", served.server.ports.grpc), timeout=20) as client:

        def wait_until(text: bytes) -> None:
            answer = b""
            while text not in answer:
                read = client.recv(2**12)
                assert read, answer
                answer += read

        client.sendall(PREFACE + encoded_frame(SETTINGS, 0, b"") + begun_call("ModelInfer", 1) + padded)
        wait_until(b"padded messages are not taken")
        client.sendall(begun_call("ServerLive", 3) + empty)
        wait_until(live)


def test_a_call_that_is_none_of_a_clients_hides_no_other(served):
    """Triton passes over a stream of an even number, whose number is higher than those to come."""
    before = memory_kb(served)
    endless = encoded_frame(DATA, 1, b"\0" + struct.pack(">I", 2**30) + bytes(2**13))
    with socket.create_connection(("127.0.0.1", served.server.ports.grpc), timeout=20) as client:
        calls = begun_call("ModelInfer", 0x7FFFFFFE) + begun_call("ModelInfer", 1)
        client.sendall(PREFACE + encoded_frame(SETTINGS, 0, b"") + calls + endless)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(2**12):
                pass  # until the gate ends it
    assert_answers(served)
    assert memory_kb(served) - before < 10_000


def test_a_frame_longer_than_triton_takes_is_not_waited_for(served):
    with socket.create_connection(("127.0.0.1", served.server.ports.grpc), timeout=20) as client:
        client.sendall(PREFACE + encoded_frame(SETTINGS, 0, b"") + b"\xff\xff\xff" + bytes(6))
        with contextlib.suppress(ConnectionResetError):
            while client.recv(2**12):
                pass
    assert_answers(served)


def test_a_compressed_request_is_refused_whose_length_nobody_knows(served):
    images = flat_images(1)
    by_grpc = tritonclient.grpc.InferInput("input", images.shape, "FP32").set_data_from_numpy(images)
    with pytest.raises(InferenceServerException, match=r"UNIMPLEMENTED\] compressed messages are not taken"):
        served.grpc().infer(COLOURS, [by_grpc], compression_algorithm="gzip")
    by_http = tritonclient.http.InferInput("input", images.shape, "FP32").set_data_from_numpy(images)
    with pytest.raises(InferenceServerException, match="compressed requests are not taken"):
        served.client().infer(COLOURS, [by_http], request_compression_algorithm="gzip")


def test_1_000_fuzzed_requests_are_answered_or_refused_and_memory_stays_flat(served):
    random = np.random.default_rng(0)
    for at in range(100):
        ask_fuzzed(served, random, at)
    before = memory_kb(served)
    for at in range(900):
        ask_fuzzed(served, random, at)
    assert_answers(served)
    assert memory_kb(served) - before < 30_000


def test_1_000_requests_of_sound_json_that_make_no_sense_are_refused_and_memory_stays_flat(served):
    random = np.random.default_rng(1)
    for at in range(100):
        ask_nonsense(served, random, at)
    before = memory_kb(served)
    for at in range(900):
        ask_nonsense(served, random, at)
    assert_answers(served)
    assert memory_kb(served) - before < 30_000


def ask_nonsense(served: Served, random: np.random.Generator, at: int) -> None:
    model = (COLOURS, BATCHED, f"{COLOURS}-image", f"{COLOURS}-decode")[at % 4]
    action = ("infer", "infer", "infer", "generate")[at % 3 if at % 7 else 3]
    text = nonsense(random)
    connection = http.client.HTTPConnection(served.address, timeout=60)
    head = {"Inference-Header-Content-Length": str(len(text))} if random.integers(3) == 0 else {}
    connection.request("POST", f"/v2/models/{model}/{action}", text + bytes(768 if head else 0), head)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    assert answer.status != 503, (text, said)
    assert len(said) < 10_000_000


def ask_fuzzed(served: Served, random: np.random.Generator, at: int) -> None:
    with socket.create_connection(served.address.split(":"), timeout=30) as client:
        client.sendall(fuzzed(COLOURS, random, at))
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while read := client.recv(2**16):
            answer += read
    assert not answer or answer.startswith(b"HTTP/1.1 ")


def test_garbage_over_grpc_is_survived(served):
    for seed in range(20):
        garbage = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[: seed + 5] + struct.pack(">I", seed) * 200
        with socket.create_connection(("127.0.0.1", served.server.ports.grpc), timeout=30) as client:
            client.sendall(garbage)
    assert ask(served.grpc(), tritonclient.grpc, COLOURS, flat_images(1)).shape == (1, 3)


def test_nobody_else_is_let_into_the_servers_memory(served):
    client = served.client()
    with pytest.raises(InferenceServerException, match="restricted"):
        client.register_system_shared_memory("mine", "/somebodys", 64)
    with pytest.raises(InferenceServerException, match="load / unload"):
        client.load_model(COLOURS)


def test_all_ports_are_on_loopback_alone(served):
    text = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    rows = [line.split() for line in text.splitlines() if ": " in line and "local" not in line]
    listening = [row[1].split(":") for row in rows if row[3] == "0A"]
    ports = served.server.ports
    found = [
        address for address, port in listening if int(port, 16) in (ports.http, ports.grpc, ports.metrics)
    ]
    assert len(found) >= 3
    assert {address[-8:] for address in found} == {"0100007F"}


def test_metrics_are_prometheuss(served):
    url = f"http://127.0.0.1:{served.server.ports.metrics}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    assert f'nv_inference_request_success{{model="{COLOURS}",version="1"}}' in text


# --- clients


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_client_gives_labels_and_their_odds(served, tmp_path, protocol):
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
    assert "There is no image nothing.png" in run("client", "nothing.png", *there, f"{COLOURS}-image").err
    assert f"{COLOURS} takes no encoded images" in run("client", "red.png", *there, COLOURS).err
    assert "unknown model: 'roses'" in run("client", "red.png", *there, "roses").err


def test_the_client_tells_that_the_port_is_the_other_protocols(served):
    for url in (
        f"http://127.0.0.1:{served.server.ports.grpc}",
        f"grpc://127.0.0.1:{served.server.ports.http}",
    ):
        with pytest.raises(DeployError) as caught:
            Client(url).image_model()
        assert "--url http://HOST:8000, or grpc://HOST:8001" in caught.value.fix


def test_a_client_that_has_to_guess_the_model_says_which_there_are(served):
    with pytest.raises(DeployError, match=f"2 models for images: {COLOURS}-image, {B0}-image") as caught:
        list(Client(served.server.url).classify([ROOT / "README.md"]))
    assert "--model" in caught.value.fix


def test_the_client_of_the_readme_works(served, tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text()
    (code,) = [part.split("```")[0] for part in text.split("```python\n") if "tritonclient" in part]
    assert len(code.strip().splitlines()) <= 10
    (tmp_path / "photo.jpg").write_bytes(photo(4, kind="JPEG"))
    monkeypatch.chdir(tmp_path)
    exec(code.replace("127.0.0.1:8000", served.address).replace("efficientnet-phi3", B0), {})
    assert "class " in capsys.readouterr().out
