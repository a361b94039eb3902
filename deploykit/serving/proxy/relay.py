"""What the proxy and its relays share: limits, connection bookkeeping, and the relay interface."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

READ_BYTES = 2**18
"""Most bytes to read from a connection at once."""

BUFFERED_BODIES = 4
"""How many bodies of the largest size all JSON that waits to be parsed may take together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may ask of a server.

    Attributes:
        body_bytes: Largest HTTP body, or gRPC message.
        connections: Most connections at the same time.
        idle_s: How long an HTTP client may be silent, any client may read nothing of its answer, and a gRPC
            client may take to send the HTTP/2 preface.
        answer_s: How long Triton may be silent after an HTTP request.
        last_request_s: How long an idle HTTP connection still has for a last request when the proxy closes.
    """

    body_bytes: int
    connections: int = 512
    idle_s: float = 120.0
    answer_s: float = 600.0
    last_request_s: float = 0.5


@dataclass(slots=True, kw_only=True)
class ProxyState:
    """State that a proxy shares with the relays of its connections.

    Attributes:
        upstream_port: Triton's port, on 127.0.0.1.
        limits: What one client may ask for.
        requests: Requests passed on so far.
        buffered_bytes: JSON that waits to be parsed, over all connections.
        is_closing: Whether the proxy is shutting down.
    """

    upstream_port: int
    limits: Limits
    requests: int = 0
    buffered_bytes: int = 0
    is_closing: bool = False

    @contextmanager
    def buffering(self) -> Iterator[Callable[[int], bool]]:
        """Count the bytes that one connection buffers, until the block ends.

        Yields:
            A function that adds bytes and returns whether all connections together are within their limit.
        """
        own_bytes, most_bytes = 0, BUFFERED_BODIES * self.limits.body_bytes

        def add(more_bytes: int) -> bool:
            nonlocal own_bytes
            own_bytes += more_bytes
            self.buffered_bytes += more_bytes
            return self.buffered_bytes <= most_bytes

        try:
            yield add
        finally:
            self.buffered_bytes -= own_bytes


class Relay(Protocol):
    """One client's connection and the connection to Triton that serves it."""

    async def serve(self) -> None:
        """Pass requests and answers on until either side closes."""
        ...

    def finish(self) -> None:
        """Close the connection once the requests already sent are answered."""
        ...
