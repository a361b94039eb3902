"""What the client, and what looks whether a server is ready, make of servers that are not as they should be."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from deploykit.serving.triton.server import _is_ready


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """The port of a server that gives that answer to whatever it is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

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


def test_a_proxy_does_not_stand_between_a_server_and_whether_it_is_ready(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with answering(200, b"") as port:
        assert _is_ready(port)
    with answering(503, b"") as port:
        assert not _is_ready(port)
    assert not _is_ready(port)
