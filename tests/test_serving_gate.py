"""The gate before a server that does as a test says, without Triton."""

import http.client
import http.server
import json
import socket
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
from waiting import PATIENCE_S, wait_for

from deploykit.errors import DeployError
from deploykit.serving.triton.gate import Gate
from deploykit.serving.triton.relay import Limits
from deploykit.serving.triton.request_json import rewritten

BINARY = {"Inference-Header-Content-Length": "0"}  # none of the body is JSON


class Behind(http.server.BaseHTTPRequestHandler):
    """Answers with what it was sent; to /slow once it may."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[str]] = []
    may_answer = threading.Event()

    def do_POST(self) -> None:
        if self.headers.get("transfer-encoding"):
            raise AssertionError("passed on what the gate refuses")
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append(self.requestline)
        if self.path == "/slow":
            self.may_answer.wait(PATIENCE_S)
        if self.path == "/gone":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def behind() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Behind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture
def slow(behind) -> Iterator[threading.Event]:
    """Until it is set, /slow does not answer."""
    Behind.seen.clear()
    Behind.may_answer.clear()
    yield Behind.may_answer
    Behind.may_answer.set()


def is_asked_slowly() -> bool:
    return "POST /slow HTTP/1.1" in Behind.seen


@pytest.fixture
def gate(behind) -> Iterator[Gate]:
    opened = Gate(
        upstream_port=behind, limits=Limits(body_bytes=1000, connections=8, last_request_s=PATIENCE_S)
    )
    opened.open("127.0.0.1", 0)
    yield opened
    if not opened.is_closing:
        opened.close(1)


def ask(
    gate: Gate, body: bytes = b"hello", path: str = "/echo", headers: dict[str, str] = BINARY
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=20)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


def raw(gate: Gate, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", gate.port), timeout=20) as client:
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while read := client.recv(2**16):
            answer += read
    return answer


def test_requests_and_answers_pass_as_they_are(gate):
    assert ask(gate, bytes(range(256))) == (200, bytes(range(256)))


def test_many_follow_each_other_on_one_connection(gate):
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=20)
    for number in range(50):
        connection.request("POST", "/echo", str(number), BINARY)
        assert connection.getresponse().read() == str(number).encode()
    connection.close()
    assert gate.requests == 50


def test_the_limit_is_of_the_body_to_the_byte(gate):
    assert ask(gate, bytes(1000))[0] == 200
    status, text = ask(gate, bytes(1001))
    assert status == 413
    assert json.loads(text) == {"error": "a body of 1001 bytes is more than the 1000 that are taken"}


JSON = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[0.1,2e3]}],"id":"7"}'


def test_json_passes_with_its_data_as_they_are(gate):
    status, text = ask(gate, JSON, headers={})
    assert status == 200
    assert json.loads(text) == json.loads(JSON)
    assert b"[0.1,2e3]" in text


def test_data_after_the_json_pass_and_its_length_is_that_of_what_is_passed_on(gate):
    spaced = JSON.replace(b":", b" : ")
    status, text = ask(
        gate, spaced + bytes(100), headers={"Inference-Header-Content-Length": str(len(spaced))}
    )
    assert (status, text) == (200, JSON + bytes(100))


def test_of_a_key_that_is_there_twice_one_is_passed_on(gate):
    twice = b'{"inputs":[{"shape":[99999],"shape":[1]}],"inputs":[{"shape":[2],"shape":[3]}]}'
    assert ask(gate, twice, headers={}) == (200, b'{"inputs":[{"shape":[3]}]}')


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
def test_what_is_no_data_takes_no_memory_to_speak_of(text):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"at most|more than"):
            rewritten(text, request_bytes=len(text))
        assert tracemalloc.get_traced_memory()[1] < 2 * len(text)
    finally:
        tracemalloc.stop()


def test_data_may_take_all_of_the_request():
    text = b'{"inputs":[{"shape":[4000000],"data":[' + b"1," * 3_999_999 + b"1]}]}"
    assert rewritten(text, request_bytes=len(text)) == text


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
def test_json_that_would_end_the_server_behind_is_refused(gate, text, problem):
    before = len(Behind.seen)
    status, answer = ask(gate, text, headers={})
    if problem is None:  # deep, and no deeper than is safe
        assert (status, json.loads(answer)) == (200, json.loads(text))
        return
    assert status == 400
    assert problem in json.loads(answer)["error"]
    assert len(Behind.seen) == before


@pytest.mark.parametrize("depth", [1_000, 50_000, 1_000_000])
def test_json_that_nests_too_deep_is_refused(behind, depth):
    gate = Gate(upstream_port=behind, limits=Limits(body_bytes=2**22))
    gate.open("127.0.0.1", 0)
    text = b'{"inputs":[{"name":"x","shape":[1],"data":' + b"[" * depth + b"]" * depth + b"}]}"
    status, answer = ask(gate, text, headers={})
    assert (status, "recursion" in json.loads(answer)["error"]) == (400, True)
    gate.close(1)


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
        (
            b"Content-Length: 5\r\nInference-Header-Content-Length: 0\r\nInference-Header-Content-Length: 5",
            400,
        ),
        (b"X: " + b"a" * 200_000, 431),
    ],
)
def test_what_two_readers_could_take_differently_is_refused(gate, head, status):
    before = len(Behind.seen)
    answer = raw(gate, b"POST /echo HTTP/1.1\r\nHost: here\r\n" + head + b"\r\n\r\nhello")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])
    assert len(Behind.seen) == before


def test_a_client_that_waits_for_leave_to_send_gets_it_or_the_refusal(gate):
    for length, expected in ((5, b"HTTP/1.1 100 "), (5000, b"HTTP/1.1 413 ")):
        with socket.create_connection(("127.0.0.1", gate.port), timeout=20) as client:
            head = f"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: {length}\r\n"
            client.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert client.recv(2**12).startswith(expected)


def test_a_server_behind_that_goes_is_the_protocols_error(gate):
    status, text = ask(gate, path="/gone")
    assert (status, json.loads(text)) == (503, {"error": "the server behind gives no answer"})
    assert ask(gate)[0] == 200


def test_a_server_behind_that_is_silent_is_not_waited_for_forever(behind, slow):
    gate = Gate(upstream_port=behind, limits=Limits(body_bytes=1000, idle_s=0.2))
    gate.open("127.0.0.1", 0)
    assert ask(gate, path="/slow") == (503, b'{"error": "the server behind gives no answer"}')
    gate.close(1)


def test_a_server_behind_that_is_not_there_is_too():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    gate = Gate(upstream_port=port, limits=Limits(body_bytes=100))
    gate.open("127.0.0.1", 0)
    assert ask(gate) == (503, b'{"error": "the server behind can\'t be reached"}')
    gate.close(1)


def test_a_silent_client_is_not_waited_for_forever(behind):
    gate = Gate(upstream_port=behind, limits=Limits(body_bytes=1000, idle_s=0.2))
    gate.open("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", gate.port), timeout=20) as client:
        client.sendall(b"POST /echo HTTP/1.1\r\n")
        assert client.recv(100) == b""
    gate.close(1)


def test_connections_beyond_the_limit_are_refused_and_then_taken_again(behind):
    gate = Gate(upstream_port=behind, limits=Limits(body_bytes=1000, connections=8))
    gate.open("127.0.0.1", 0)
    held = [socket.create_connection(("127.0.0.1", gate.port)) for _ in range(8)]
    wait_for(lambda: len(gate._connections) == 8)
    for sent in (0, 1000):  # what is left unread when a connection is closed would drop the answer
        with socket.create_connection(("127.0.0.1", gate.port), timeout=20) as ninth:
            ninth.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: 1000\r\n\r\n" + bytes(sent))
            assert ninth.recv(2**12).startswith(b"HTTP/1.1 503 ")
    for each in held:
        each.close()
    wait_for(lambda: not gate._connections)
    assert ask(gate)[0] == 200
    gate.close(1)


def test_closing_answers_what_was_asked_and_takes_nothing_new(gate, slow):
    answers: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: answers.append(ask(gate, path="/slow")))
    asking.start()
    idle = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=20)
    idle.request("POST", "/echo", "before", BINARY)
    assert idle.getresponse().read() == b"before"
    wait_for(is_asked_slowly)
    closing = threading.Thread(target=gate.close, args=(PATIENCE_S,))
    closing.start()
    wait_for(lambda: gate.is_closing)
    idle.request("POST", "/echo", "meanwhile", BINARY)  # on a connection that was there
    last = idle.getresponse()
    assert (last.read(), last.headers["connection"]) == (b"meanwhile", "close")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", gate.port))
    assert answers == []
    slow.set()
    asking.join()
    closing.join()
    assert answers == [(200, b"hello")]


def test_connections_that_are_being_taken_when_it_closes_are_answered(behind):
    found: Counter[str] = Counter()

    def work(port: int) -> None:
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", port), timeout=20)
            except OSError:
                return  # closed
            with connection:
                connection.sendall(
                    b"POST /echo HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                )
                try:
                    found["answered" if connection.recv(2**12).startswith(b"HTTP/1.1 200 ") else "lost"] += 1
                except OSError:
                    found["lost"] += 1

    for _ in range(10):
        gate = Gate(upstream_port=behind, limits=Limits(body_bytes=1000))
        gate.open("127.0.0.1", 0)
        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(work, gate.port) for _ in range(8)]
            enough = gate.requests + 20
            wait_for(lambda: gate.requests > enough, every_s=0.001)  # noqa: B023  # waited for at once
            gate.close(20)
        assert all(each.done() for each in asking)
    assert found["answered"] > 200
    assert found["lost"] <= 1  # that the system queued in the moment between the last look and the close


def test_what_takes_longer_than_it_may_is_ended_without_a_word(gate, slow, caplog):
    with socket.create_connection(("127.0.0.1", gate.port), timeout=20) as client:
        client.sendall(b"POST /slow HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{}")
        wait_for(is_asked_slowly)
        gate.close(0.1)  # returns, though there is no answer yet
        assert client.recv(100) == b""
    assert caplog.records == []


def test_a_taken_port_is_named(gate, behind):
    with pytest.raises(DeployError, match=f"127.0.0.1:{gate.port} can't be listened on"):
        Gate(upstream_port=behind, limits=Limits(body_bytes=1)).open("127.0.0.1", gate.port)
