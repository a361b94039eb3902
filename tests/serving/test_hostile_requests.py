"""A real Triton behind the proxy gets wrong, hostile and nonsensical requests."""

import contextlib
import http.client
import json
import socket
import struct
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from hostile_requests import begun_call, fuzzed, infer_body, nonsense
from refusals import refuses
from served import ROOT, flat_images, photo
from served_models import (
    BATCHED,
    COLOURS,
    MAX_BODY,
    Served,
    ask,
    assert_answers,
    memory_kb,
)
from tritonclient.utils import InferenceServerException

from deploykit.serving.client import Client
from deploykit.serving.proxy.grpc_relay import (
    DATA,
    END_STREAM,
    PADDED,
    PREFACE,
    SETTINGS,
    encoded_frame,
)

pytestmark = pytest.mark.integration


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
def test_an_invalid_request_gets_the_protocols_error_and_the_next_is_answered(
    served, path, text, expected_status, problem
):
    status, answer = post(served, f"/v2/models/{path}/infer", text)
    assert status == expected_status
    assert problem in answer["error"]
    assert_answers(served)


@pytest.mark.parametrize("encoded", [b"", b"no image", photo(1)[:100], photo(1, kind="JPEG")[:300]])
def test_an_unreadable_image_is_refused_with_the_reason(served, encoded):
    image = tritonclient.http.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[encoded]], np.object_))
    with pytest.raises(InferenceServerException, match="is not a readable image"):
        served.client().infer(f"{COLOURS}-image", [image])
    assert_answers(served)


def test_an_unreadable_image_posted_with_curl_is_a_400(served):
    path = f"/v2/models/{COLOURS}-image/infer"
    status, answer = post(served, path, b"no image", Inference_Header_Content_Length="0")
    assert (status, "is not a readable image" in answer["error"]) == (400, True)


def test_an_unreadable_image_affects_no_other_request(served):
    def work(seed: int) -> bool:
        with_client = Client(served.server.url)
        path = ROOT / "README.md" if seed % 2 else None
        if path is None:
            assert_answers(served)
            return True
        with refuses("server-refused"):
            list(with_client.classify([path], f"{COLOURS}-image"))
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(16)))


def test_a_request_without_images_affects_no_other_in_its_batch(served):
    """Triton accepts it if it has the bytes of one image."""

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


def test_a_body_of_2_gb_is_refused_before_it_is_read(served):
    """Without the proxy, Triton 2.51 crashes."""
    before = memory_kb(served)
    with socket.create_connection(served.address.split(":"), timeout=60) as client:
        length = 2**31
        client.sendall(f"POST /v2/models/{COLOURS}/infer HTTP/1.1\r\nHost: here\r\n".encode())
        client.sendall(f"Content-Length: {length}\r\n\r\n".encode() + bytes(2**22))
        answer = client.recv(2**16)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert f"exceeds the limit of {MAX_BODY}" in answer.decode()
    assert_answers(served)
    assert memory_kb(served) - before < 50_000


def test_a_grpc_message_over_the_limit_is_refused_and_its_connection_goes_on(served):
    """Without the proxy, Triton would keep gigabytes of it."""
    client, before = served.grpc(), memory_kb(served)
    for count in (1000, 100_000):  # 0.8 and 77 MB
        problem = (
            "batch-size must be" if count == 1000 else r"RESOURCE_EXHAUSTED\] a message of 76800\d\d\d bytes"
        )
        with pytest.raises(InferenceServerException, match=problem):
            ask(client, tritonclient.grpc, COLOURS, np.zeros((count, 3, 8, 8), np.float32))
        assert ask(client, tritonclient.grpc, COLOURS, flat_images(1)).shape == (1, 3)
    assert memory_kb(served) - before < 50_000


def test_a_padded_grpc_message_is_refused_and_its_connection_goes_on(served):
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
        wait_until(b"padded messages are refused")
        client.sendall(begun_call("ServerLive", 3) + empty)
        wait_until(live)


def test_a_call_on_an_even_stream_hides_no_other(served):
    """Triton ignores an even stream number, which is higher than those of later calls."""
    before = memory_kb(served)
    endless = encoded_frame(DATA, 1, b"\0" + struct.pack(">I", 2**30) + bytes(2**13))
    with socket.create_connection(("127.0.0.1", served.server.ports.grpc), timeout=20) as client:
        calls = begun_call("ModelInfer", 0x7FFFFFFE) + begun_call("ModelInfer", 1)
        client.sendall(PREFACE + encoded_frame(SETTINGS, 0, b"") + calls + endless)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(2**12):
                pass  # until the proxy ends it
    assert_answers(served)
    assert memory_kb(served) - before < 10_000


def test_a_frame_over_tritons_limit_ends_the_connection(served):
    with socket.create_connection(("127.0.0.1", served.server.ports.grpc), timeout=20) as client:
        client.sendall(PREFACE + encoded_frame(SETTINGS, 0, b"") + b"\xff\xff\xff" + bytes(6))
        with contextlib.suppress(ConnectionResetError):
            while client.recv(2**12):
                pass
    assert_answers(served)


def test_compressed_requests_are_refused(served):
    images = flat_images(1)
    by_grpc = tritonclient.grpc.InferInput("input", images.shape, "FP32").set_data_from_numpy(images)
    with pytest.raises(InferenceServerException, match=r"UNIMPLEMENTED\] compressed messages are refused"):
        served.grpc().infer(COLOURS, [by_grpc], compression_algorithm="gzip")
    by_http = tritonclient.http.InferInput("input", images.shape, "FP32").set_data_from_numpy(images)
    with pytest.raises(InferenceServerException, match="compressed requests are refused"):
        served.client().infer(COLOURS, [by_http], request_compression_algorithm="gzip")


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


@pytest.mark.parametrize(("asked", "seed"), [(ask_fuzzed, 0), (ask_nonsense, 1)])
def test_1_000_random_requests_are_answered_or_refused_and_memory_stays_flat(served, asked, seed):
    """Damaged requests, and valid JSON that makes no sense."""
    random = np.random.default_rng(seed)
    for at in range(100):
        asked(served, random, at)
    before = memory_kb(served)
    for at in range(900):
        asked(served, random, at)
    assert_answers(served)
    assert memory_kb(served) - before < 30_000


@pytest.mark.parametrize(
    "path", ["repository/index", f"models/{COLOURS}/generate", "repository/models/x/load", "logging"]
)
def test_json_is_checked_wherever_triton_parses_it(served, path):
    """Whatever a header says about its length: that many brackets crash Triton."""
    headers = {"Inference-Header-Content-Length": "0"}
    body = b'{"a":' + b"[" * 200_000
    request = urllib.request.Request(f"{served.server.url}/v2/{path}", body, headers)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=60)
    assert_answers(served)


def test_triton_survives_garbage_over_grpc(served):
    for seed in range(20):
        garbage = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[: seed + 5] + struct.pack(">I", seed) * 200
        with socket.create_connection(("127.0.0.1", served.server.ports.grpc), timeout=30) as client:
            client.sendall(garbage)
    assert ask(served.grpc(), tritonclient.grpc, COLOURS, flat_images(1)).shape == (1, 3)


def test_clients_cannot_register_shared_memory_or_load_models(served):
    client = served.client()
    with pytest.raises(InferenceServerException, match="restricted"):
        client.register_system_shared_memory("mine", "/somebodys", 64)
    with pytest.raises(InferenceServerException, match="load / unload"):
        client.load_model(COLOURS)
