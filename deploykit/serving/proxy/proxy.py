"""The proxy between clients and Triton's ports: it enforces limits and shuts down without losing requests.

Triton 2.51, which nvidia-pytriton 0.7.0 ships, reads requests of any length into memory, and a request of
2 GiB kills it. The proxy therefore checks lengths first. It parses each HTTP request strictly, with h11, and
writes a new one for Triton: a request that two parsers could read differently does not get through. Of gRPC
it reads the lengths of messages.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable
from typing import TypeVar

from deploykit.serving.proxy.grpc_relay import GrpcRelay
from deploykit.serving.proxy.http_relay import HttpRelay, error_body
from deploykit.serving.proxy.relay import READ_BYTES, Limits, ProxyState, Relay
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

T = TypeVar("T")
_BACKLOG = 1024  # connections that wait to be accepted
_MAX_REFUSING = 64  # connections over the limit that are being told so at the same time
_REFUSE_S = 2.0  # how long telling them may take
_ACCEPT_PAUSE_S = 0.2  # before accepting again when file descriptors run out


class Proxy:
    """Listens in a background thread from `open` to `close`.

    Args:
        upstream_port: Triton's port, on 127.0.0.1.
        limits: What one client may ask for.
        relay: The protocol, HttpRelay or GrpcRelay.
    """

    def __init__(
        self, *, upstream_port: int, limits: Limits, relay: type[HttpRelay] | type[GrpcRelay] = HttpRelay
    ) -> None:
        self.port = 0
        self.state = ProxyState(upstream_port=upstream_port, limits=limits)
        self._protocol_error: type[Exception] = require("h11", extra="serve").ProtocolError
        self._relay = relay
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread
        self._listening: list[socket.socket] = []
        self._connections: dict[asyncio.Task[None], Relay | None] = {}  # None: just accepted
        self._refusing: set[asyncio.Task[None]] = set()

    @property
    def requests(self) -> int:
        """Requests passed on so far."""
        return self.state.requests

    @property
    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self.state.is_closing

    def open(self, host: str, port: int) -> None:
        """Start listening.

        Raises:
            DeployError: The port is in use, or the address is not one of this machine.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="deploykit-proxy", daemon=True)
        self._thread.start()
        try:
            self._call(self._listen(host, port))
        except OSError as error:
            self._end()
            raise address_unavailable(host, port, error) from error
        self.port = self._listening[0].getsockname()[1]

    def close(self, timeout_s: float) -> None:
        """Accept no more connections, answer the requests already sent, and stop.

        Args:
            timeout_s: How long those requests may take.
        """
        self._call(self._drain(timeout_s))
        self._end()

    async def _listen(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        # asyncio resolves the host; accepting is done here, see _accept_all.
        bound = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
        self._listening = [socket.socket(fileno=os.dup(each.fileno())) for each in bound.sockets]
        bound.close()
        for each in self._listening:
            each.setblocking(False)
            each.listen(_BACKLOG)
            loop.add_reader(each, self._accept_all, each)

    def _accept_all(self, listening: socket.socket) -> None:
        """Accept every waiting connection: a closing asyncio server loses the ones it is about to accept."""
        while True:
            try:
                client, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # no file descriptor is left
                if not self.is_closing:
                    loop = asyncio.get_running_loop()
                    loop.remove_reader(listening)
                    loop.call_later(_ACCEPT_PAUSE_S, self._resume_accepting, listening)
                return
            client.setblocking(False)
            if len(self._connections) < self.state.limits.connections:
                task = asyncio.ensure_future(self._serve(client))
                self._connections[task] = None
            elif self._relay is HttpRelay and len(self._refusing) < _MAX_REFUSING:
                refusing = asyncio.ensure_future(self._refuse(client))
                self._refusing.add(refusing)
                refusing.add_done_callback(self._refusing.discard)
            else:
                client.close()

    def _resume_accepting(self, listening: socket.socket) -> None:
        if not self.is_closing:
            asyncio.get_running_loop().add_reader(listening, self._accept_all, listening)

    async def _drain(self, timeout_s: float) -> None:
        self.state.is_closing = True
        for listening in self._listening:
            asyncio.get_running_loop().remove_reader(listening)
            self._accept_all(listening)
            listening.close()
        for each in self._connections.values():
            if each is not None:
                each.finish()
        tasks = list(self._connections)
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        for task in (*tasks, *self._refusing):
            task.cancel()
        await asyncio.gather(*tasks, *self._refusing, return_exceptions=True)

    async def _serve(self, client: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # asyncio runs this as one
        try:
            reader, writer = await asyncio.open_connection(sock=client, limit=READ_BYTES)
            try:
                self._connections[task] = connection = self._relay(self.state, reader, writer)
                if self.is_closing:
                    connection.finish()
                await connection.serve()
                writer.close()
                async with asyncio.timeout(self.state.limits.idle_s):
                    await writer.wait_closed()  # until the system has the whole answer
            finally:
                writer.close()
                if writer.transport.get_write_buffer_size():  # the client stopped reading
                    writer.transport.abort()
        except (OSError, TimeoutError, EOFError, self._protocol_error) as error:
            # The client left or was silent for too long. Its reader keeps the error, and the traceback would
            # keep what it read.
            error.__traceback__ = None
        except asyncio.CancelledError:
            if not self.is_closing:  # a closing proxy cancels what took too long
                raise
        finally:
            del self._connections[task]

    async def _refuse(self, client: socket.socket) -> None:
        """Answer 503, and read the request as well: left unread, it makes the system drop the answer."""
        reader, writer = await asyncio.open_connection(sock=client, limit=READ_BYTES)
        try:
            async with asyncio.timeout(_REFUSE_S):
                writer.write(_refusal_response("too many connections"))
                writer.write_eof()
                while await reader.read(READ_BYTES):
                    pass
        except OSError:  # TimeoutError is one
            pass
        finally:
            writer.close()

    def _call(self, work: Awaitable[T]) -> T:
        """Run a coroutine in the proxy's thread, and wait for its result."""

        async def wait() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def address_unavailable(host: str, port: int, error: OSError) -> DeployError:
    """Return the error for an address that can't be listened on."""
    system = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
    reason = system.partition(" (while")[0].lower()  # without what Python adds
    return DeployError(
        f"Cannot listen on {host}:{port}: {reason}.",
        code="address-unavailable",
        fix="give another --host, --http-port, --grpc-port or --metrics-port; port 0 picks a free one",
    )


def _refusal_response(problem: str) -> bytes:
    body = error_body(problem)
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    return f"{head}\r\nConnection: close\r\n\r\n".encode() + body
