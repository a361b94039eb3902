"""What stands between clients and Triton's ports: limits, and a way to stop that loses nothing.

Triton 2.51, which nvidia-pytriton 0.7.0 carries, reads requests of any length into memory, and one of 2 GiB
ends it. So lengths are looked at here, before. A request is parsed by h11, strictly, and written anew: what
two readers could understand differently doesn't get through. Of gRPC the lengths of messages are read.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable
from typing import TypeVar

from deploykit.errors import DeployError
from deploykit.extras import require
from deploykit.serving.triton.grpc_relay import GrpcRelay
from deploykit.serving.triton.relay import CHUNK_BYTES, Limits, Relay, error_body

T = TypeVar("T")


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
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], Relay | GrpcRelay] = {}
        self.is_closing = False

    def open(self, host: str, port: int) -> None:
        """Raises: DeployError: the address is taken, or none of this machine."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="deploykit-gate", daemon=True)
        self._thread.start()
        try:
            self._server = self._call(self._listen(host, port))
        except OSError as error:
            self._end()
            raise port_taken(host, port, error) from error
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self, drain_s: float) -> None:
        """Takes no more connections, answers what was asked on those there are, and ends."""
        self._call(self._drain(drain_s))
        self._end()

    async def _listen(self, host: str, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._accept, host, port, limit=CHUNK_BYTES, backlog=1024)

    async def _drain(self, drain_s: float) -> None:
        if self._server is not None:
            self._server.close()
        self.is_closing = True
        await asyncio.sleep(0)  # connections that were just accepted come to be known
        for each in self._connections.values():
            each.finish()
        tasks = list(self._connections)
        if tasks:
            await asyncio.wait(tasks, timeout=drain_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # asyncio runs this as one
        if len(self._connections) >= self.limits.connections:
            if self._relay is Relay:
                writer.write(_plain_refusal("too many connections"))
            writer.close()
            return
        self._connections[task] = connection = self._relay(self, reader, writer)
        try:
            await connection.serve()
        except (OSError, TimeoutError, EOFError, self.h11.ProtocolError) as error:
            # The client went, or was silent for too long. Its reader keeps the error, and that what it read.
            error.__traceback__ = None
        except asyncio.CancelledError:
            if not self.is_closing:  # else it had its time: asyncio's streams would report it as a fault
                raise
        finally:
            del self._connections[task]
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
    reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
    return DeployError(
        f"{host}:{port} can't be listened on: {reason}.",
        fix="give another --host, --http-port, --grpc-port or --metrics-port; 0 for any port that is free",
    )


def _plain_refusal(problem: str) -> bytes:
    body = error_body(problem)
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    return f"{head}\r\nConnection: close\r\n\r\n".encode() + body
