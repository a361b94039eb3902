"""HTTP connections through the proxy to an upstream server that a test controls, without Triton."""

import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from refusals import refuses
from upstream_server import (
    BEGIN,
    BINARY,
    CUT,
    ECHO,
    GONE,
    HALF,
    LAST,
    MUCH,
    MUCH_BYTES,
    SLOW,
    ask,
    held,
    is_asked,
    open_proxy,
    raw,
    run_upstream,
)
from waiting import PATIENCE_S, wait_for

from deploykit.serving.proxy.proxy import Proxy
from deploykit.serving.proxy.relay import Limits


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    with run_upstream() as port:
        yield port


@pytest.fixture
def slow(upstream) -> Iterator[threading.Event]:
    with held() as may_answer:
        yield may_answer


@pytest.fixture
def proxy(upstream) -> Iterator[Proxy]:
    with open_proxy(upstream, last_request_s=PATIENCE_S) as opened:
        yield opened


def test_requests_and_answers_pass_unchanged(proxy):
    assert ask(proxy, bytes(range(256))) == (200, bytes(range(256)))


def test_many_requests_share_one_connection(proxy):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    for number in range(10):
        connection.request("POST", ECHO, str(number), BINARY)
        assert connection.getresponse().read() == str(number).encode()
    connection.close()
    assert proxy.requests == 10


def test_expect_100_continue_gets_a_continue_or_the_refusal(proxy):
    for length, expected in ((5, b"HTTP/1.1 100 "), (5000, b"HTTP/1.1 413 ")):
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as client:
            head = f"POST {ECHO} HTTP/1.1\r\nHost: here\r\nContent-Length: {length}\r\n"
            client.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert client.recv(2**12).startswith(expected)


def test_an_upstream_that_closes_the_connection_is_a_503(proxy):
    status, text = ask(proxy, path=GONE)
    assert (status, json.loads(text)) == (503, {"error": "the upstream server does not answer"})
    assert ask(proxy)[0] == 200


def test_an_upstream_answer_that_breaks_off_is_a_503(proxy):
    status, text = ask(proxy, path=CUT)
    assert (status, json.loads(text)) == (503, {"error": "the upstream server does not answer"})


def test_a_connection_that_the_upstream_closed_is_opened_again(proxy):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE_S)
    for path in (LAST, LAST, ECHO):
        connection.request("POST", path, b"hello", BINARY)
        assert connection.getresponse().read() == b"hello"
        time.sleep(0.2)  # until the proxy has seen the end of the upstream's connection
    connection.close()


def test_an_http_1_0_client_needs_no_host_header(proxy):
    answer = raw(proxy, b"GET /v2/health/ready HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\ngot")


def test_clients_that_do_not_read_are_disconnected(upstream):
    with open_proxy(upstream, connections=2, idle_s=0.2) as proxy:
        deaf = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(2)]
        for each in deaf:
            each.sendall(BEGIN.replace(b"echo", b"much") + b"Host: here\r\nContent-Length: 2\r\n\r\n{}")
        wait_for(lambda: ask(proxy)[0] == 200)
        for each in deaf:
            each.close()


def test_a_slow_reader_gets_the_whole_answer_while_the_proxy_closes(proxy):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_S) as client:
        begin = BEGIN.replace(b"echo", b"much") + b"Connection: close\r\n"
        client.sendall(begin + b"Host: here\r\nContent-Length: 2\r\n\r\n{}")
        wait_for(lambda: is_asked(MUCH))
        closing = threading.Thread(target=proxy.close, args=(PATIENCE_S,))
        closing.start()
        wait_for(lambda: proxy.is_closing)
        answer = b""
        while read := client.recv(2**20):
            answer += read
        closing.join()
    assert len(answer.partition(b"\r\n\r\n")[2]) == MUCH_BYTES


def test_closing_does_not_wait_for_a_connection_whose_answer_is_complete(upstream, slow):
    with open_proxy(upstream, last_request_s=0.1) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE_S)
        connection.request("POST", HALF, b"hello", BINARY)
        answer = connection.getresponse()  # the head only
        closing = threading.Thread(target=proxy.close, args=(3 * PATIENCE_S,))  # longer than the join below
        closing.start()
        wait_for(lambda: proxy.is_closing)
        closing.join(0.5)  # until the proxy has looked for idle connections
        assert closing.is_alive()
        slow.set()
        assert answer.read() == b"hello"
        closing.join(PATIENCE_S)
        assert not closing.is_alive()
        connection.close()


def test_a_silent_upstream_times_out(upstream, slow):
    proxy = Proxy(upstream_port=upstream, limits=Limits(body_bytes=1000, answer_s=0.2))
    proxy.open("127.0.0.1", 0)
    assert ask(proxy, path=SLOW) == (503, b'{"error": "the upstream server does not answer"}')
    proxy.close(1)


def test_a_missing_upstream_is_a_503():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    proxy = Proxy(upstream_port=port, limits=Limits(body_bytes=100))
    proxy.open("127.0.0.1", 0)
    assert ask(proxy) == (503, b'{"error": "the upstream server can\'t be reached"}')
    proxy.close(1)


def test_a_silent_client_is_disconnected(upstream):
    proxy = Proxy(upstream_port=upstream, limits=Limits(body_bytes=1000, idle_s=0.2))
    proxy.open("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as client:
        client.sendall(BEGIN)
        assert client.recv(100) == b""
    proxy.close(1)


def test_connections_over_the_limit_are_refused_until_others_close(upstream):
    proxy = Proxy(upstream_port=upstream, limits=Limits(body_bytes=1000, connections=8))
    proxy.open("127.0.0.1", 0)
    held = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(8)]
    wait_for(lambda: len(proxy._connections) == 8)
    for sent in (0, 1000):  # data left unread at the close would drop the answer
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as ninth:
            ninth.sendall(BEGIN + b"Content-Length: 1000\r\n\r\n" + bytes(sent))
            assert ninth.recv(2**12).startswith(b"HTTP/1.1 503 ")
    for each in held:
        each.close()
    wait_for(lambda: not proxy._connections)
    assert ask(proxy)[0] == 200
    proxy.close(1)


def test_closing_answers_running_requests_and_accepts_no_new_connections(proxy, slow):
    answers: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: answers.append(ask(proxy, path=SLOW)))
    asking.start()
    idle = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    idle.request("POST", ECHO, "before", BINARY)
    assert idle.getresponse().read() == b"before"
    wait_for(lambda: is_asked(SLOW))
    closing = threading.Thread(target=proxy.close, args=(PATIENCE_S,))
    closing.start()
    wait_for(lambda: proxy.is_closing)
    idle.request("POST", ECHO, "meanwhile", BINARY)  # on an existing connection
    last = idle.getresponse()
    assert (last.read(), last.headers["connection"]) == (b"meanwhile", "close")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
    assert answers == []
    slow.set()
    asking.join()
    closing.join()
    assert answers == [(200, b"hello")]


def test_connections_being_accepted_when_the_proxy_closes_are_answered(upstream):
    found: Counter[str] = Counter()

    def work(port: int) -> None:
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", port), timeout=20)
            except OSError:
                return  # closed
            with connection:
                connection.sendall(BEGIN + b"Host: here\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                try:
                    found["answered" if connection.recv(2**12).startswith(b"HTTP/1.1 200 ") else "lost"] += 1
                except OSError:
                    found["lost"] += 1

    for _ in range(10):
        proxy = Proxy(upstream_port=upstream, limits=Limits(body_bytes=1000))
        proxy.open("127.0.0.1", 0)
        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(work, proxy.port) for _ in range(8)]
            enough = proxy.requests + 20
            wait_for(lambda: proxy.requests > enough, every_s=0.001)  # noqa: B023  # waited for at once
            proxy.close(20)
        assert all(each.done() for each in asking)
    assert found["answered"] > 200
    assert found["lost"] <= 1  # queued by the system between the last accept and the close


def test_closing_cancels_slow_requests_without_logging(proxy, slow, caplog):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as client:
        client.sendall(BEGIN.replace(b"echo", b"slow") + b"Host: here\r\nContent-Length: 2\r\n\r\n{}")
        wait_for(lambda: is_asked(SLOW))
        proxy.close(0.1)  # returns although there is no answer yet
        assert client.recv(100) == b""
    assert caplog.records == []


def test_a_port_in_use_is_refused(proxy, upstream):
    with refuses("address-unavailable"):
        Proxy(upstream_port=upstream, limits=Limits(body_bytes=1)).open("127.0.0.1", proxy.port)
