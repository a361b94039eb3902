"""Check the addresses to listen on, find free ports, and allow enough open files."""

import resource
import socket
from contextlib import ExitStack

from deploykit.serving.proxy.proxy import address_unavailable
from deploykit.serving.triton.options import LOOPBACK, Ports
from deploykit.util.errors import DeployError

_FREE_PORT = "0 picks a free port"
_OTHER_FILES = 256


def require_free(host: str, ports: Ports) -> None:
    """Check that a server can listen there.

    Raises:
        DeployError: A port is in use, out of range or given twice, or the host is not one of this machine.
    """
    if not host:
        raise DeployError(
            "The host to listen on is empty.",
            code="address-missing",
            fix=f"give --host {LOOPBACK}, or --host 0.0.0.0 for all interfaces",
        )
    given = (ports.http, ports.grpc, ports.metrics)
    for port in given:
        if not 0 <= port <= 65535:
            raise DeployError(
                f"{port} is not a port number.",
                code="invalid-port",
                fix=f"give a port between 1024 and 65535; {_FREE_PORT}",
            )
        if port and given.count(port) > 1:
            raise DeployError(
                f"Port {port} is given twice; HTTP, gRPC and metrics need a port each.",
                code="invalid-port",
                fix=f"give another --http-port, --grpc-port or --metrics-port; {_FREE_PORT}",
            )
        try:
            socket.create_server((host, port), family=_family(host)).close()
        except OSError as error:
            raise address_unavailable(host, port, error) from error


def free_ports() -> Ports:
    """Return three different free ports of 127.0.0.1."""
    with ExitStack() as stack:  # all are held until all are found
        found = [stack.enter_context(socket.create_server((LOOPBACK, 0))).getsockname()[1] for _ in range(3)]
    http, grpc, metrics = found
    return Ports(http=http, grpc=grpc, metrics=metrics)


def allow_open_files(connections: int) -> None:
    """Raise this process's limit on open files, where the system lets it; many start with 1024.

    Each connection takes two sockets, one to the client and one to Triton, for HTTP and for gRPC.
    """
    wanted = 4 * connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
