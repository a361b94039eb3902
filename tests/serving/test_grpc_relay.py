"""The gRPC relay between a client and a server that send each other the frames of a test."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread

import pytest
from hostile_requests import begun_call
from waiting import PATIENCE_S, wait_for

from deploykit.serving.proxy.grpc_relay import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    GrpcRelay,
    encoded_frame,
    encoded_header,
)
from deploykit.serving.proxy.proxy import Proxy
from deploykit.serving.proxy.relay import Limits

MOST_BYTES = 1000
HEAD_BYTES = 9
PING = 6
NO_ERROR, CANCEL = 0, 8
RESOURCE_EXHAUSTED, UNIMPLEMENTED = "8", "12"
MARK = encoded_frame(PING, 0, b"the mark")  # frames keep their order, so all earlier ones have arrived


@dataclass(frozen=True, slots=True)
class End:
    """One end of a connection, to read frames from."""

    connection: socket.socket

    def send(self, *frames: bytes) -> None:
        self.connection.sendall(b"".join(frames))

    def read(self, count: int) -> bytes:
        text = b""
        while len(text) < count:
            read = self.connection.recv(count - len(text))
            if not read:
                raise EOFError
            text += read
        return text

    def frame(self) -> Frame:
        head = self.read(HEAD_BYTES)
        high, low, kind, flags, stream = struct.unpack(">BHBBI", head)
        return Frame(kind, flags, stream, head + self.read(high << 16 | low))

    def frames_before_mark(self) -> list[Frame]:
        frames = []
        while (frame := self.frame()).encoded != MARK:
            frames.append(frame)
        return frames

    def is_ended(self) -> bool:
        with suppress(ConnectionResetError):
            return self.connection.recv(1) == b""
        return True


@pytest.fixture
def upstream() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        yield server


@pytest.fixture
def proxy(upstream, monkeypatch) -> Iterator[Proxy]:
    monkeypatch.setattr("deploykit.serving.proxy.grpc_relay._GOODBYE_S", 0.2)
    limits = Limits(body_bytes=MOST_BYTES, connections=8, idle_s=PATIENCE_S)
    opened = Proxy(upstream_port=upstream.getsockname()[1], limits=limits, relay=GrpcRelay)
    opened.open("127.0.0.1", 0)
    yield opened
    if not opened.is_closing:
        opened.close(0.1)


@contextmanager
def connected(proxy: Proxy) -> Iterator[End]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_S) as connection:
        yield End(connection)


@pytest.fixture
def ends(upstream, proxy) -> Iterator[tuple[End, End]]:
    """The client's end and the server's end, with a proxy in between."""
    with connected(proxy) as client:
        client.send(PREFACE)
        accepted, _ = upstream.accept()
        with accepted:
            accepted.settimeout(PATIENCE_S)
            server = End(accepted)
            assert server.read(len(PREFACE)) == PREFACE
            yield client, server


def message(length: int, *, stated: int | None = None, is_compressed: bool = False) -> bytes:
    return struct.pack(">BI", is_compressed, length if stated is None else stated) + bytes(length)


def sent(end: End, other: End, *frames: bytes) -> list[Frame]:
    """Send frames, and return those that the other end receives."""
    end.send(*frames, MARK)
    return other.frames_before_mark()


def fields(frame: Frame) -> dict[str, str]:
    """Return the headers of a HEADERS frame whose fields are literals without indexing."""
    text, found = bytes(frame.payload), []
    while text:
        literal, text = text[0], text[1:]
        assert literal == 0
        for _ in range(2):
            found.append(text[1 : 1 + text[0]].decode())
            text = text[1 + text[0] :]
    return dict(zip(found[::2], found[1::2], strict=True))


def code(frame: Frame) -> int:
    (value,) = struct.unpack(">I", frame.payload)
    return value


ANSWER = encoded_frame(HEADERS, 1, encoded_header(":status", "200"), flags=END_HEADERS)
TOO_LONG = encoded_frame(DATA, 1, message(20, stated=MOST_BYTES + 1))


def test_frames_within_the_limits_pass_unchanged_both_ways(ends):
    client, server = ends
    asked = [
        encoded_frame(SETTINGS, 0, b""),
        begun_call("ModelInfer", 1),
        encoded_frame(DATA, 1, message(MOST_BYTES), flags=END_STREAM),
    ]
    assert [each.encoded for each in sent(client, server, *asked)] == asked
    answer = [ANSWER, encoded_frame(DATA, 1, message(2 * MOST_BYTES)), encoded_frame(RST_STREAM, 1, bytes(4))]
    assert [each.encoded for each in sent(server, client, *answer)] == answer


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 7, 100])
def test_message_lengths_are_read_across_frame_boundaries(ends, size):
    client, server = ends
    text = message(0) + message(MOST_BYTES) + message(3) + message(MOST_BYTES)
    frames = [encoded_frame(DATA, 1, text[at : at + size]) for at in range(0, len(text), size)]
    seen = sent(client, server, begun_call("ModelStreamInfer", 1), *frames)
    assert b"".join(bytes(each.payload) for each in seen[1:]) == text
    end = message(10, stated=MOST_BYTES + 1)
    client.send(*(encoded_frame(DATA, 1, end[at : at + size]) for at in range(0, len(end), size)), MARK)
    *_, reset = server.frames_before_mark()
    assert (reset.kind, code(reset)) == (RST_STREAM, CANCEL)


@pytest.mark.parametrize(
    ("frame", "status", "problem"),
    [
        (TOO_LONG, RESOURCE_EXHAUSTED, "a message of 1001 bytes exceeds the limit of 1000"),
        (
            encoded_frame(DATA, 1, message(5) + message(0, stated=2**32 - 1)),
            RESOURCE_EXHAUSTED,
            "a message of 4294967295 bytes",
        ),
        (
            encoded_frame(DATA, 1, message(5, is_compressed=True)),
            UNIMPLEMENTED,
            "compressed messages are refused",
        ),
        (
            encoded_frame(DATA, 1, b"\1" + message(5) + b"\0", flags=PADDED),
            UNIMPLEMENTED,
            "padded messages are refused",
        ),
    ],
)
@pytest.mark.parametrize("is_answered", [False, True])
def test_a_refused_call_ends_at_both_ends_and_its_window_is_returned(
    ends, frame, status, problem, is_answered
):
    client, server = ends
    sent(client, server, begun_call("ModelStreamInfer", 1))
    if is_answered:
        sent(server, client, ANSWER)
    (cancelled,) = sent(client, server, frame)
    assert (cancelled.kind, cancelled.stream, code(cancelled)) == (RST_STREAM, 1, CANCEL)
    ended, reset, window = sent(server, client)
    assert (ended.kind, ended.stream, ended.flags) == (HEADERS, 1, END_HEADERS | END_STREAM)
    said = fields(ended)
    assert said["grpc-status"] == status
    assert said["grpc-message"].startswith(problem)
    begun = {":status": "200", "content-type": "application/grpc"}
    assert {name: said[name] for name in begun if name in said} == ({} if is_answered else begun)
    assert (reset.kind, reset.stream, code(reset)) == (RST_STREAM, 1, NO_ERROR)
    assert (window.kind, window.stream, code(window)) == (WINDOW_UPDATE, 0, len(frame) - HEAD_BYTES)


def test_later_frames_of_a_refused_call_are_dropped_and_other_calls_go_on(ends):
    client, server = ends
    sent(client, server, begun_call("ModelInfer", 1), TOO_LONG)
    sent(server, client)
    late = encoded_frame(DATA, 1, bytes(77), flags=END_STREAM)
    assert sent(client, server, late, encoded_frame(RST_STREAM, 1, bytes(4))) == []
    (window,) = sent(server, client)
    assert (window.kind, code(window)) == (WINDOW_UPDATE, 77)
    other = [begun_call("ModelInfer", 3), encoded_frame(DATA, 3, message(9), flags=END_STREAM)]
    assert [each.encoded for each in sent(client, server, *other)] == other


@pytest.mark.parametrize(
    "end",
    [
        encoded_frame(HEADERS, 1, encoded_header("grpc-status", "0"), flags=END_HEADERS | END_STREAM),
        encoded_frame(DATA, 1, b"", flags=END_STREAM),
        encoded_frame(RST_STREAM, 1, bytes(4)),
    ],
)
def test_frames_after_a_calls_answer_are_dropped(ends, end):
    client, server = ends
    sent(client, server, begun_call("ModelInfer", 1))
    assert [each.encoded for each in sent(server, client, end)] == [end]
    assert sent(client, server, TOO_LONG) == []
    (window,) = sent(server, client)
    assert window.kind == WINDOW_UPDATE


def test_closing_answers_running_calls_and_accepts_no_new_ones(ends, proxy):
    client, server = ends
    sent(client, server, begun_call("ModelInfer", 1), begun_call("ModelInfer", 3))
    assert proxy.requests == 2
    closing = Thread(target=proxy.close, args=(3 * PATIENCE_S,))  # longer than the test waits
    closing.start()
    goaway = client.frame()
    assert (goaway.kind, goaway.stream) == (GOAWAY, 0)
    assert struct.unpack(">II", goaway.payload) == (3, NO_ERROR)
    of_calls = [encoded_frame(DATA, each, message(9), flags=END_STREAM) for each in (1, 3, 5)]
    assert [
        each.encoded for each in sent(client, server, begun_call("ModelInfer", 5), *of_calls)
    ] == of_calls[:2]
    assert proxy.requests == 2
    ends_of_calls = [encoded_frame(RST_STREAM, each, bytes(4)) for each in (1, 3)]
    seen = sent(server, client, ends_of_calls[0])
    assert ends_of_calls[0] in [each.encoded for each in seen]
    assert closing.is_alive()
    assert [each.encoded for each in sent(server, client, ends_of_calls[1])] == [ends_of_calls[1]]
    assert client.is_ended()
    closing.join(PATIENCE_S)
    assert not closing.is_alive()


@pytest.mark.parametrize("last", [encoded_frame(RST_STREAM, 1, bytes(4)), TOO_LONG])
def test_closing_does_not_wait_for_cancelled_or_refused_calls(ends, proxy, last):
    client, server = ends
    sent(client, server, begun_call("ModelInfer", 1))
    closing = Thread(target=proxy.close, args=(3 * PATIENCE_S,))  # longer than the test waits
    closing.start()
    assert client.frame().kind == GOAWAY
    sent(client, server, last)
    closing.join(PATIENCE_S)
    assert not closing.is_alive()


def test_a_grpc_client_that_does_not_read_is_disconnected(upstream):
    limits = Limits(body_bytes=MOST_BYTES, connections=8, idle_s=0.2)
    proxy = Proxy(upstream_port=upstream.getsockname()[1], limits=limits, relay=GrpcRelay)
    proxy.open("127.0.0.1", 0)
    with connected(proxy) as client:
        client.send(PREFACE)
        accepted, _ = upstream.accept()
        with accepted, suppress(OSError):
            accepted.settimeout(PATIENCE_S)
            while True:  # until the proxy ends it
                accepted.sendall(encoded_frame(DATA, 1, bytes(2**14)))
        wait_for(lambda: not proxy._connections)
    proxy.close(1)


@pytest.mark.parametrize(
    "text",
    [
        PREFACE + begun_call("ModelInfer", 2),
        PREFACE + begun_call("ModelInfer", 0x7FFFFFFE),
        PREFACE + b"\xff\xff\xff" + bytes(6),
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    ],
)
def test_a_protocol_violation_ends_only_its_own_connection(ends, proxy, text):
    client, server = ends
    with connected(proxy) as other:
        other.send(text)
        assert other.is_ended()
    whole = begun_call("ModelInfer", 1)
    assert [each.encoded for each in sent(client, server, whole)] == [whole]


def test_a_client_that_never_completes_the_preface_is_disconnected(upstream):
    limits = Limits(body_bytes=MOST_BYTES, connections=8, idle_s=0.1)
    proxy = Proxy(upstream_port=upstream.getsockname()[1], limits=limits, relay=GrpcRelay)
    proxy.open("127.0.0.1", 0)
    with connected(proxy) as silent:
        silent.send(PREFACE[:5])
        assert silent.is_ended()
    proxy.close(1)


@pytest.mark.parametrize("who", ["client", "server"])
def test_closing_one_end_closes_the_other(ends, proxy, who):
    client, server = ends
    gone, other = (client, server) if who == "client" else (server, client)
    gone.connection.shutdown(socket.SHUT_RDWR)
    assert other.is_ended()
    wait_for(lambda: not proxy._connections)
