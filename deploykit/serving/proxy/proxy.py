"""What stands between clients and Triton's ports: limits, and a way to stop that loses nothing.

Triton 2.51, which nvidia-pytriton 0.7.0 carries, reads requests of any length into memory, and one of 2 GiB
ends it. So lengths are looked at here, before. A request is parsed by h11, strictly, and written anew: what
two readers could understand differently doesn't get through. Of gRPC the lengths of messages are read.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from deploykit.serving.proxy.grpc_relay import GrpcRelay
from deploykit.serving.proxy.http_relay import CHUNK_BYTES, HELD_BODIES, Limits, Relay, error_body
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

T = TypeVar("T")
_BACKLOG, _REFUSING = 1024, 64  # connections that wait to be taken, and that are told that they are too many
_REFUSE_S, _PAUSE_S = 2.0, 0.2  # for the latter; and for want of file descriptors


class Gate:
    """Listens, in a thread of its own, from open to close."""

    def __init__(
        self, *, upstream_port: int, limits: Limits, relay: type[Relay] | type[GrpcRelay] = Relay
    ) -> None:
        self.port = 0
        self.requests = 0
        self.upstream_port, self.limits = upstream_port, limits
        self.h11 = require("h11", extra="serve")
        self._relay = relay
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread
        self._listening: list[socket.socket] = []
        self._connections: dict[asyncio.Task[None], Relay | GrpcRelay | None] = {}  # None: just accepted
        self._refusing: set[asyncio.Task[None]] = set()
        self._held_bytes = 0
        self.is_closing = False

    def open(self, host: str, port: int) -> None:
        """Raises: DeployError: the address is taken, or none of this machine."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="deploykit-gate", daemon=True)
        self._thread.start()
        try:
            self._call(self._listen(host, port))
        except OSError as error:
            self._end()
            raise port_taken(host, port, error) from error
        self.port = self._listening[0].getsockname()[1]

    def close(self, drain_s: float) -> None:
        """Takes no more connections, answers what was asked on those there are, and ends."""
        self._call(self._drain(drain_s))
        self._end()

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], bool]]:
        """Gives what counts bytes that a connection keeps, and tells whether all of them still may."""
        own_bytes, most_bytes = 0, HELD_BODIES * self.limits.body_bytes

        def hold(more_bytes: int) -> bool:
            nonlocal own_bytes
            own_bytes += more_bytes
            self._held_bytes += more_bytes
            return self._held_bytes <= most_bytes

        try:
            yield hold
        finally:
            self._held_bytes -= own_bytes

    async def _listen(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        bound = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)  # finds addresses
        self._listening = [socket.socket(fileno=os.dup(each.fileno())) for each in bound.sockets]
        bound.close()
        for each in self._listening:
            each.setblocking(False)
            each.listen(_BACKLOG)
            loop.add_reader(each, self._take, each)

    def _take(self, listening: socket.socket) -> None:
        """All that wait to be: asyncio's servers lose those that they are about to take when they close."""
        while True:
            try:
                client, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # no file descriptor is left
                if not self.is_closing:
                    loop = asyncio.get_running_loop()
                    loop.remove_reader(listening)
                    loop.call_later(_PAUSE_S, self._take_again, listening)
                return
            client.setblocking(False)
            if len(self._connections) < self.limits.connections:
                task = asyncio.ensure_future(self._serve(client))
                self._connections[task] = None
            elif self._relay is Relay and len(self._refusing) < _REFUSING:
                refusing = asyncio.ensure_future(self._refuse(client))
                self._refusing.add(refusing)
                refusing.add_done_callback(self._refusing.discard)
            else:
                client.close()

    def _take_again(self, listening: socket.socket) -> None:
        if not self.is_closing:
            asyncio.get_running_loop().add_reader(listening, self._take, listening)

    async def _drain(self, drain_s: float) -> None:
        self.is_closing = True
        for listening in self._listening:
            asyncio.get_running_loop().remove_reader(listening)
            self._take(listening)
            listening.close()
        for each in self._connections.values():
            if each is not None:
                each.finish()
        tasks = list(self._connections)
        if tasks:
            await asyncio.wait(tasks, timeout=drain_s)
        for task in (*tasks, *self._refusing):
            task.cancel()
        await asyncio.gather(*tasks, *self._refusing, return_exceptions=True)

    async def _serve(self, client: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # asyncio runs this as one
        try:
            reader, writer = await asyncio.open_connection(sock=client, limit=CHUNK_BYTES)
            try:
                self._connections[task] = connection = self._relay(self, reader, writer)
                if self.is_closing:
                    connection.finish()
                await connection.serve()
                writer.close()
                async with asyncio.timeout(self.limits.idle_s):
                    await writer.wait_closed()  # until the system has all of the answer
            finally:
                writer.close()
                if writer.transport.get_write_buffer_size():  # of which the client takes no more
                    writer.transport.abort()
        except (OSError, TimeoutError, EOFError, self.h11.ProtocolError) as error:
            # The client went, or was silent for too long. Its reader keeps the error, and that what it read.
            error.__traceback__ = None
        except asyncio.CancelledError:
            if not self.is_closing:  # else it had its time
                raise
        finally:
            del self._connections[task]

    async def _refuse(self, client: socket.socket) -> None:
        """Reads what it sends, too: left unread, that would make the system drop the answer."""
        reader, writer = await asyncio.open_connection(sock=client, limit=CHUNK_BYTES)
        try:
            async with asyncio.timeout(_REFUSE_S):
                writer.write(_plain_refusal("too many connections"))
                writer.write_eof()
                while await reader.read(CHUNK_BYTES):
                    pass
        except OSError:  # TimeoutError is one
            pass
        finally:
            writer.close()

    def _call(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def port_taken(host: str, port: int, error: OSError) -> DeployError:
    """What to tell the user."""
    said = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
    reason = said.partition(" (while")[0].lower()  # of what Python adds
    return DeployError(
        f"{host}:{port} can't be listened on: {reason}.",
        code="address-unavailable",
        fix="give another --host, --http-port, --grpc-port or --metrics-port; 0 for any port that is free",
    )


def _plain_refusal(problem: str) -> bytes:
    body = error_body(problem)
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    return f"{head}\r\nConnection: close\r\n\r\n".encode() + body
