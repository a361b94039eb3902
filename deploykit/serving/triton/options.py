"""How to run a Triton server: addresses, limits and timeouts.

To add an option of the server's command line: add it to ServerOptions, pass it in `process.triton_command`,
and offer it in cli/serve.py. Options of a model are in serving/repository/options.py and config.py.
"""

from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Ports to listen on; 0 picks a free one."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How to run a server.

    Attributes:
        host: Address to listen on.
        ports: Ports to listen on.
        body_bytes: Largest request; None for the size of the largest batch of any model.
        connections: Most connections at the same time, for HTTP and for gRPC each.
        shutdown_timeout_s: How long running requests may take when the server stops.
        startup_timeout_s: How long models may take to load and warm up.
        poll_s: Interval between checks of the repository for new versions; None for never.
    """

    host: str = LOOPBACK
    ports: Ports = Ports()
    body_bytes: int | None = None
    connections: int = 512
    shutdown_timeout_s: float = 30.0
    startup_timeout_s: float = 300.0
    poll_s: float | None = 5.0
