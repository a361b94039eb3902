"""Which HTTP requests the proxy passes on, and which it refuses."""

import json
import socket
import tracemalloc
from collections.abc import Iterator

import pytest
from upstream_server import BEGIN, Upstream, ask, open_proxy, raw, run_upstream
from waiting import wait_for

from deploykit.serving.proxy.proxy import Proxy
from deploykit.serving.proxy.request_json import sanitize_request_json


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    with run_upstream() as port:
        yield port


@pytest.fixture
def proxy(upstream) -> Iterator[Proxy]:
    with open_proxy(upstream) as opened:
        yield opened


def test_the_body_limit_is_exact_to_the_byte(proxy):
    assert ask(proxy, bytes(1000))[0] == 200
    status, text = ask(proxy, bytes(1001))
    assert status == 413
    assert json.loads(text) == {"error": "a body of 1001 bytes exceeds the limit of 1000"}


JSON = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[0.1,2e3]}],"id":"7"}'


def test_json_passes_with_its_data_unchanged(proxy):
    status, text = ask(proxy, JSON, headers={})
    assert status == 200
    assert json.loads(text) == json.loads(JSON)
    assert b"[0.1,2e3]" in text


def test_binary_data_pass_and_the_json_length_is_updated(proxy):
    spaced = JSON.replace(b":", b" : ")
    status, text = ask(
        proxy, spaced + bytes(100), headers={"Inference-Header-Content-Length": str(len(spaced))}
    )
    assert (status, text) == (200, JSON + bytes(100))


def test_only_one_of_two_equal_keys_is_passed_on(proxy):
    twice = b'{"inputs":[{"shape":[99999],"shape":[1]}],"inputs":[{"shape":[2],"shape":[3]}]}'
    assert ask(proxy, twice, headers={}) == (200, b'{"inputs":[{"shape":[3]}]}')


@pytest.mark.parametrize(
    "text",
    [
        b'{"inputs":[' + b"{}," * 200_000 + b"{}]}",
        b'{"inputs":[{"name":' + b'{"a":1},' * 200_000 + b"1}]}",
        b"{" + b'"a":1,' * 200_000 + b'"b":1}',
        b'{"a":[' + b"[]," * 2_000_000 + b"[]]}",
        b'{"inputs":[[' + b"1," * 4_000_000 + b"1]]}",
        b'{"inputs":[{"shape":[' + b"1," * 4_000_000 + b"1]}]}",
    ],
    ids=["objects", "objects in one", "names", "arrays", "numbers", "sizes"],
)
def test_json_besides_tensor_data_takes_little_memory(text):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"at most|more than"):
            sanitize_request_json(text, request_bytes=len(text))
        assert tracemalloc.get_traced_memory()[1] < 2 * len(text)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        b"{" + b",".join(b'"%d":[' % at + b"[]," * 15_000 + b"[]]" for at in range(12)) + b"}",
        b'{"inputs":[' + b",".join([b'{"shape":[' + b"1," * 30_000 + b"1]}"] * 12) + b"]}",
    ],
    ids=["keys", "tensors"],
)
def test_json_besides_tensor_data_is_limited_in_total(text, monkeypatch):
    most_bytes = 2**18  # a sixteenth of the real limit, which would be slow to trace
    monkeypatch.setattr("deploykit.serving.proxy.request_json._MOST_BYTES", most_bytes)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 262144 bytes besides tensor data"):
            sanitize_request_json(text, request_bytes=len(text))
        assert tracemalloc.get_traced_memory()[1] < 25 * most_bytes
    finally:
        tracemalloc.stop()


def test_tensor_data_may_fill_the_whole_request():
    text = b'{"inputs":[{"shape":[4000000],"data":[' + b"1," * 3_999_999 + b"1]}]}"
    assert sanitize_request_json(text, request_bytes=len(text)) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (JSON.replace(b"[1,2]", b"[1000000000000]"), "more elements than the request has bytes"),
        (JSON.replace(b"[1,2]", b"[4294967296,4294967296]"), "more elements than the request has bytes"),
        (JSON.replace(b"[1,2]", b"[-1,-9]"), "more elements than the request has bytes"),
        (JSON.replace(b"[1,2]", b'"all"'), "failed to parse shape"),
        (JSON.replace(b"shape", b"sh\\u0061pe").replace(b"[1,2]", b"[9999]"), "more elements than"),
        (b"[" * 900, "failed to parse the request"),
        (b'{"inputs":' + b"[" * 450 + b"]" * 450 + b"}", None),
        (b'{"id":NaN}', "failed to parse the request"),
        (b"[1]", "failed to parse the request"),
        (b'{"a":"\xff"}', "failed to parse a"),
    ],
)
def test_json_that_would_crash_triton_is_refused(proxy, text, problem):
    before = len(Upstream.seen)
    status, answer = ask(proxy, text, headers={})
    if problem is None:  # deep, but still safe
        assert (status, json.loads(answer)) == (200, json.loads(text))
        return
    assert status == 400
    assert problem in json.loads(answer)["error"]
    assert len(Upstream.seen) == before


@pytest.mark.parametrize("depth", [1_000, 50_000, 1_000_000])
def test_deeply_nested_json_is_refused(upstream, depth):
    text = b'{"inputs":[{"name":"x","shape":[1],"data":' + b"[" * depth + b"]" * depth + b"}]}"
    with open_proxy(upstream, body_bytes=2**22) as proxy:
        status, answer = ask(proxy, text, headers={})
    assert (status, "recursion" in json.loads(answer)["error"]) == (400, True)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/index",
        "/v2/repository/models/x/load",
        "/v2/models/x/generate",
        "/v2/models/x/generate_stream",
        "/v2/models/x/infer/",
        "/v2/models/x/infer?a=b",
        "/v2/models/x/y/infer",
        "/v2//models/x/infer",
    ],
)
def test_a_body_that_triton_parses_as_json_is_checked_as_json(proxy, path):
    """Deeply nested arrays would crash it."""
    before = len(Upstream.seen)
    status, text = ask(proxy, b"hello", path=path)
    assert status == 400
    assert json.loads(text)["error"] == "Inference-Header-Content-Length is only for /v2/models/MODEL/infer"
    status, text = ask(proxy, b'{"a":' + b"[" * 300, path=path, headers={})
    assert (status, "failed to parse" in json.loads(text)["error"]) == (400, True)
    assert len(Upstream.seen) == before


def test_json_waiting_to_be_parsed_is_limited_over_all_connections(upstream):
    long = json.dumps({"inputs": [{"shape": [1], "data": "x" * 900}]}).encode()
    with open_proxy(upstream) as proxy:
        begun = BEGIN + b"Host: here\r\nContent-Length: 1000\r\n\r\n" + bytes(950)
        waiting = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(4)]
        for each in waiting:
            each.sendall(begun)
        wait_for(lambda: proxy.state.buffered_bytes == 4 * 950)
        status, text = ask(proxy, long, headers={})
        assert (status, "too much JSON is waiting to be parsed" in text.decode()) == (503, True)
        assert ask(proxy, bytes(1000))[0] == 200  # none of it is JSON
        waiting.pop().close()
        wait_for(lambda: proxy.state.buffered_bytes == 3 * 950)
        assert ask(proxy, long, headers={})[0] == 200
        for each in waiting:
            each.close()
        wait_for(lambda: proxy.state.buffered_bytes == 0)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Transfer-Encoding: chunked", 411),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", 411),
        (b"Content-Length: 5\r\nContent-Length: 6", 400),
        (b"Content-Length: -1", 400),
        (b"Content-Length: 5\r\nContent-Encoding: gzip", 415),
        (b"Content-Length: 5\r\nContent-Encoding: gzip\r\nContent-Encoding: identity", 415),
        (b"Content-Length: 5, 5\r\nX Y: z", 400),
        (b"Content-Length: 99999999999999999999999", 400),
        (b"Content-Length: 5\r\nInference-Header-Content-Length: abc", 400),
        (b"Content-Length: 5\r\nInference-Header-Content-Length: -1", 400),
        (b"Content-Length: 5\r\nInference-Header-Content-Length: 6", 400),
        (b"Content-Length: 5\r\nInference-Header-Content-Length: " + b"0" * 5000, 400),
        (b"Content-Length: " + b"0" * 5000, 400),
        (
            b"Content-Length: 5\r\nInference-Header-Content-Length: 0\r\nInference-Header-Content-Length: 5",
            400,
        ),
        (b"X: " + b"a" * 200_000, 431),
    ],
)
def test_ambiguous_requests_are_refused(proxy, head, status):
    before = len(Upstream.seen)
    answer = raw(proxy, BEGIN + b"Host: here\r\n" + head + b"\r\n\r\nhello")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])
    assert len(Upstream.seen) == before
