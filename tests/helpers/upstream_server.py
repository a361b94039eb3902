"""An upstream server whose answer depends on the path, and a proxy in front of it, without Triton."""

import http.client
import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from waiting import PATIENCE_S

from deploykit.serving.proxy.proxy import Proxy
from deploykit.serving.proxy.relay import Limits

ECHO, SLOW, HALF, GONE, CUT, LAST, MUCH = (
    f"/v2/models/{name}/infer" for name in ("echo", "slow", "half", "gone", "cut", "last", "much")
)
MUCH_BYTES = 2**24  # more than sockets buffer
BEGIN = f"POST {ECHO} HTTP/1.1\r\n".encode()
BINARY = {"Inference-Header-Content-Length": "0"}  # none of the body is JSON


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers with the body of the request, except for these paths.

    SLOW: waits for may_answer. HALF: sends the head at once, and waits before the body. CUT: sends status 500
    and less than the stated length. LAST: closes the connection without saying so. MUCH: sends MUCH_BYTES.
    GONE: closes the connection without an answer.
    """

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[str]] = []
    may_answer = threading.Event()

    def do_GET(self) -> None:
        self._answer(b"got")

    def do_POST(self) -> None:
        if self.headers.get("transfer-encoding"):
            raise AssertionError("the proxy passed on what it should refuse")
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append(self.requestline)
        if self.path == SLOW:
            self.may_answer.wait(PATIENCE_S)
        if self.path == HALF:
            self._begin(200, len(body))
            self.may_answer.wait(PATIENCE_S)
            self.wfile.write(body)
            return
        if self.path == CUT:
            self._begin(500, 100)
        elif self.path == MUCH:
            self._answer(bytes(MUCH_BYTES))
        elif self.path != GONE:
            self._answer(body)
        if self.path in (GONE, CUT, LAST):
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def _answer(self, body: bytes) -> None:
        self._begin(200, len(body))
        self.wfile.write(body)

    def _begin(self, status: int, length: int) -> None:
        self.wfile.write(f"HTTP/1.1 {status} So\r\nContent-Length: {length}\r\n\r\n".encode())

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Ignore connections that the proxy ends early, as tests make it do."""


@contextmanager
def run_upstream() -> Iterator[int]:
    """Run the upstream server; yields its port."""
    server = Server(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()


@contextmanager
def held() -> Iterator[threading.Event]:
    """Yields an event; SLOW and HALF wait until it is set."""
    Upstream.seen.clear()
    Upstream.may_answer.clear()
    try:
        yield Upstream.may_answer
    finally:
        Upstream.may_answer.set()


def is_asked(path: str) -> bool:
    return f"POST {path} HTTP/1.1" in Upstream.seen


@contextmanager
def open_proxy(port: int, **limits: float) -> Iterator[Proxy]:
    opened = Proxy(upstream_port=port, limits=Limits(**{"body_bytes": 1000, "connections": 8, **limits}))
    opened.open("127.0.0.1", 0)
    try:
        yield opened
    finally:
        if not opened.is_closing:
            opened.close(1)


def ask(
    proxy: Proxy, body: bytes = b"hello", path: str = ECHO, headers: dict[str, str] = BINARY
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE_S)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


def raw(proxy: Proxy, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_S) as client:
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while read := client.recv(2**16):
            answer += read
    return answer
