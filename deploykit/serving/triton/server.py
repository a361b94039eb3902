"""A running Triton behind the proxies: ready once its models are warm, stopped without losing a request."""

import collections
import secrets
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from deploykit.serving.proxy.grpc_relay import GrpcRelay
from deploykit.serving.proxy.proxy import Proxy
from deploykit.serving.proxy.relay import Limits
from deploykit.serving.repository.server_requirements import (
    default_body_limit,
    model_names,
    require_body_limit,
)
from deploykit.serving.triton.addresses import allow_open_files, free_ports, require_free
from deploykit.serving.triton.installation import TritonInstallation
from deploykit.serving.triton.log import ModelEvents
from deploykit.serving.triton.options import Ports, ServerOptions
from deploykit.serving.triton.process import (
    read_log,
    remove_shared_memory,
    start_triton,
    stop_triton,
    triton_command,
    wait_until_ready,
)
from deploykit.util.errors import DeployError

_KEPT_LINES = 400
_MOST_BODY_BYTES = 2**31 - 1


class Server:
    """A Triton that is ready.

    Attributes:
        host: The address it listens on.
        ports: The ports it listens on.
        pid: Process id of Triton.
        models: Names of the models that it serves.
    """

    def __init__(
        self, process: "subprocess.Popen[str]", proxies: Sequence[Proxy], host: str, models: tuple[str, ...]
    ) -> None:
        self._process, self.proxies = process, proxies
        http, grpc, metrics = (each.port for each in proxies)
        self.ports, self.host = Ports(http=http, grpc=grpc, metrics=metrics), host
        self.pid, self.models = process.pid, models

    @property
    def url(self) -> str:
        """HTTP address, for clients."""
        return f"http://{self._host_in_urls}:{self.ports.http}"

    @property
    def grpc_url(self) -> str:
        """gRPC address, for deploykit's client."""
        return f"grpc://{self._host_in_urls}:{self.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        """Address of the metrics, for Prometheus."""
        return f"http://{self._host_in_urls}:{self.ports.metrics}/metrics"

    @property
    def _host_in_urls(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def requests(self) -> int:
        """Requests over HTTP and gRPC so far."""
        return sum(each.requests for each in self.proxies[:2])

    def wait(self) -> None:
        """Wait until Triton ends by itself, which is always an error.

        Raises:
            DeployError: Triton has ended.
        """
        status = self._process.wait()
        raise DeployError(
            f"Triton exited unexpectedly with status {status}.",
            code="triton-exited",
            fix="see Triton's log with --verbose",
        )


@contextmanager
def run_server(
    repository: str | Path,
    triton: TritonInstallation,
    options: ServerOptions,
    *,
    note: Callable[[str], None] = lambda sentence: None,
    log: Callable[[str], None] = lambda line: None,
) -> Iterator[Server]:
    """Serve a model repository until the block ends; then answer running requests, and stop.

    Args:
        note: Receives a sentence for each model that loads, or fails to, once the server is ready.
        log: Receives each line of Triton's log.

    Raises:
        DeployError: A port is in use, or a model does not load.
    """
    repository = Path(repository)
    require_free(options.host, options.ports)
    options = replace(options, body_bytes=_body_limit(repository, options.body_bytes))
    ports = free_ports()
    allow_open_files(options.connections)
    memory_prefix = f"deploykit-{secrets.token_hex(6)}-"
    lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
    with ExitStack() as stack:  # undoes everything in reverse, whatever happens meanwhile
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deploykit-triton-")))
        stack.callback(remove_shared_memory, memory_prefix)
        command = triton_command(
            repository, triton, options, folder=folder, ports=ports, memory_prefix=memory_prefix
        )
        process = start_triton(command, triton)
        is_ready, events = threading.Event(), ModelEvents()

        def receive(line: str) -> None:
            lines.append(line)
            log(line)
            sentence = events.parse(line)
            if is_ready.is_set() and sentence is not None:
                note(sentence)

        reader = threading.Thread(target=read_log, args=(process, receive), daemon=True)
        reader.start()
        stack.callback(reader.join, timeout=1)
        stack.callback(stop_triton, process, options.shutdown_timeout_s)
        wait_until_ready(process, ports.http, options.startup_timeout_s, lines)
        opened: list[Proxy] = []
        stack.callback(_close_all, opened, options.shutdown_timeout_s)
        for proxy, port in _proxies(options, ports):
            proxy.open(options.host, port)
            opened.append(proxy)
        is_ready.set()
        yield Server(process, opened, options.host, model_names(repository))


def _body_limit(repository: Path, body_bytes: int | None) -> int:
    """Return the largest request to accept.

    Raises:
        DeployError: The limit that was given is too small for a model, or too large for Triton.
    """
    if body_bytes is None:
        return default_body_limit(repository)
    if body_bytes > _MOST_BODY_BYTES:
        raise DeployError(
            "--max-body is 2 GiB or more, and a body of that size crashes Triton.",
            code="invalid-request-limit",
            fix="give --max-body 1GiB or less",
        )
    require_body_limit(repository, body_bytes)
    return body_bytes


def _proxies(options: ServerOptions, upstream: Ports) -> tuple[tuple[Proxy, int], ...]:
    """Return a proxy for each of Triton's ports, and the port that it is to listen on."""
    limits = Limits(body_bytes=options.body_bytes or 0, connections=options.connections)
    no_body = Limits(body_bytes=0, connections=16, idle_s=10.0)
    return (
        (Proxy(upstream_port=upstream.http, limits=limits), options.ports.http),
        (Proxy(upstream_port=upstream.grpc, limits=limits, relay=GrpcRelay), options.ports.grpc),
        (Proxy(upstream_port=upstream.metrics, limits=no_body), options.ports.metrics),
    )


def _close_all(proxies: Sequence[Proxy], timeout_s: float) -> None:
    """Close all proxies at the same time."""
    if proxies:
        with ThreadPoolExecutor(len(proxies)) as pool:
            list(pool.map(lambda proxy: proxy.close(timeout_s), proxies))
