"""A Triton that runs: started, ready once its models are warm, and stopped without losing a request."""

import collections
import ctypes
import os
import resource
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from deploykit.serving.proxy.grpc_relay import GrpcRelay
from deploykit.serving.proxy.http_relay import Limits
from deploykit.serving.proxy.proxy import Gate, port_taken
from deploykit.serving.repository.server_requirements import largest_body, models_in, require_room
from deploykit.serving.triton.installation import Triton
from deploykit.serving.triton.log import News, why_not_ready
from deploykit.util.errors import DeployError

LOOPBACK = "127.0.0.1"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where Triton's processes meet
_KEPT_LINES = 400
_BODY_OPTION = "--http-max-input-size"
_MOST_BODY_BYTES = 2**31 - 1
_TOLD_APART = 0.05
_OTHER_FILES = 256

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """0 for any that is free."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How a server is run.

    Attributes:
        host: the address it listens on.
        body_bytes: of a request; None for what the largest batch takes.
        connections: at the same time, over HTTP and over gRPC each.
        drain_s: how long requests under way may take, once it is to stop.
        ready_s: how long models may take to load and warm up.
        poll_s: how often the repository is looked at for new versions; None for never.
    """

    host: str = LOOPBACK
    ports: Ports = Ports()
    body_bytes: int | None = None
    connections: int = 512
    drain_s: float = 30.0
    ready_s: float = 300.0
    poll_s: float | None = 5.0


class Server:
    """A Triton that is ready."""

    def __init__(
        self, process: "subprocess.Popen[str]", gates: Sequence[Gate], host: str, models: tuple[str, ...]
    ) -> None:
        self._process, self.gates = process, gates
        http, grpc, metrics = (gate.port for gate in gates)
        self.ports, self.host = Ports(http=http, grpc=grpc, metrics=metrics), host
        self.pid, self.models = process.pid, models

    @property
    def url(self) -> str:
        """Of HTTP, as clients take it."""
        return f"http://{self._host_in_urls}:{self.ports.http}"

    @property
    def grpc_url(self) -> str:
        """Of gRPC, as deploykit's client takes it."""
        return f"grpc://{self._host_in_urls}:{self.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        """Of what Prometheus reads."""
        return f"http://{self._host_in_urls}:{self.ports.metrics}/metrics"

    @property
    def _host_in_urls(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def requests(self) -> int:
        """Over HTTP and gRPC, so far."""
        return sum(each.requests for each in self.gates[:2])

    def wait(self) -> None:
        """Returns when it has ended by itself, which it should not.

        Raises:
            DeployError: it has.
        """
        status = self._process.wait()
        raise DeployError(
            f"Triton ended by itself, with status {status}.",
            code="triton-exited",
            fix="see what it said, with --verbose",
        )


@contextmanager
def serving(
    repository: str | Path,
    triton: Triton,
    options: ServerOptions,
    *,
    note: Log = lambda sentence: None,
    log: Log = lambda line: None,
) -> Iterator[Server]:
    """Serves a model repository until the block ends; then answers what was asked, and stops.

    Args:
        note: told which models are loaded anew, or can't be, once it is ready.
        log: told what Triton says, a line each.

    Raises:
        DeployError: a port is taken, or a model doesn't load.
    """
    _require_listens(options.host, options.ports)
    inner = _free_ports()
    _allow_files(options.connections)
    if options.body_bytes is not None and options.body_bytes > _MOST_BODY_BYTES:
        raise DeployError(
            "A body of 2 GiB or more ends Triton.",
            code="invalid-request-limit",
            fix="give --max-body 1GiB or less",
        )
    if options.body_bytes is not None:
        require_room(Path(repository), options.body_bytes)
    else:
        options = replace(options, body_bytes=largest_body(Path(repository)))
    region = f"deploykit-{secrets.token_hex(6)}-"
    said: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
    with ExitStack() as stack:  # undoes all of it, in reverse, whatever happens meanwhile
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deploykit-triton-")))
        stack.callback(_forget, region)
        command = _command(Path(repository), triton, options, folder=folder, inner=inner, region=region)
        process = _start(command, triton)
        is_ready, news = threading.Event(), News()

        def listen(line: str) -> None:
            said.append(line)
            log(line)
            sentence = news.in_line(line)
            if is_ready.is_set() and sentence is not None:
                note(sentence)

        reader = threading.Thread(target=_read, args=(process, listen), daemon=True)
        reader.start()
        stack.callback(reader.join, timeout=1)
        stack.callback(_stop, process, options.drain_s)
        _wait_until_ready(process, inner.http, options.ready_s, said)
        opened: list[Gate] = []
        stack.callback(_close, opened, options.drain_s)
        for gate, port in _gates(options, inner):
            gate.open(options.host, port)
            opened.append(gate)
        is_ready.set()
        yield Server(process, opened, options.host, models_in(Path(repository)))


def _gates(options: ServerOptions, inner: Ports) -> tuple[tuple[Gate, int], ...]:
    """And the port that each is to listen on."""
    limits = Limits(body_bytes=options.body_bytes or 0, connections=options.connections)
    none = Limits(body_bytes=0, connections=16, idle_s=10.0)
    return (
        (Gate(upstream_port=inner.http, limits=limits), options.ports.http),
        (Gate(upstream_port=inner.grpc, limits=limits, relay=GrpcRelay), options.ports.grpc),
        (Gate(upstream_port=inner.metrics, limits=none), options.ports.metrics),
    )


def _close(gates: Sequence[Gate], drain_s: float) -> None:
    """All at the same time."""
    if gates:
        with ThreadPoolExecutor(len(gates)) as pool:
            list(pool.map(lambda gate: gate.close(drain_s), gates))


def _command(
    repository: Path, triton: Triton, options: ServerOptions, *, folder: Path, inner: Ports, region: str
) -> list[str]:
    secret = secrets.token_hex(16)
    command = [
        str(triton.executable),
        f"--model-repository={repository.absolute()}",
        *(f"--{each}-address={LOOPBACK}" for each in ("http", "grpc", "metrics")),
        f"--http-port={inner.http}",
        f"--grpc-port={inner.grpc}",
        f"--metrics-port={inner.metrics}",
        "--strict-readiness=false",  # one bad new version would make the whole server unready
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={max(1, round(options.drain_s))}",
        f"--backend-config=python,shm-region-prefix-name={region}",
        # By shared memory clients could have the server read and write what is not theirs.
        f"--http-restricted-api=shared-memory,trace,logging:deploykit-key={secret}",
        f"--grpc-restricted-protocol=shared-memory,trace,logging:deploykit-key={secret}",
    ]
    if options.poll_s is not None:
        command += ["--model-control-mode=poll", f"--repository-poll-secs={max(1, round(options.poll_s))}"]
    if triton.knows(_BODY_OPTION):  # whose default is 64 MiB, whatever the models take
        command.append(f"{_BODY_OPTION}={options.body_bytes}")
    backends = triton.backend_folder(folder / "backends")
    return command if backends is None else [*command, f"--backend-directory={backends}"]


def _start(command: list[str], triton: Triton) -> "subprocess.Popen[str]":
    libc = ctypes.CDLL(None)
    try:
        return subprocess.Popen(  # noqa: S603  # the server found, and arguments made here
            command,
            env={**os.environ, **triton.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for us, who stop it in order
            preexec_fn=lambda: libc.prctl(1, signal.SIGTERM),  # noqa: PLW1509  # PR_SET_PDEATHSIG
        )
    except OSError as error:
        raise DeployError(
            f"{command[0]} can't be started: {error.strerror}.",
            code="triton-start-failed",
            fix="install nvidia-pytriton again",
        ) from error


def _read(process: "subprocess.Popen[str]", listen: Log) -> None:
    assert process.stdout is not None  # noqa: S101  # asked for
    with process.stdout:
        for line in process.stdout:
            listen(line.rstrip("\n"))


def _wait_until_ready(
    process: "subprocess.Popen[str]", port: int, ready_s: float, said: "collections.deque[str]"
) -> None:
    """Triton listens once all its models are loaded and warm.

    Raises:
        DeployError: it ended, or takes too long.
    """
    end = time.monotonic() + ready_s
    while time.monotonic() < end:
        if process.poll() is not None:
            time.sleep(_TOLD_APART)  # its last words are being read
            raise why_not_ready(list(said))
        if _is_ready(port):
            return
        time.sleep(_TOLD_APART)
    raise DeployError(
        f"Triton was not ready after {ready_s:g} s.",
        code="triton-start-timeout",
        fix="allow it more with --ready, or see --verbose",
    )


def _is_ready(port: int) -> bool:
    asking = HTTPConnection(LOOPBACK, port, timeout=5)  # itself, whatever proxy the environment names
    try:
        asking.request("GET", "/v2/health/ready")
        return asking.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        asking.close()


def _stop(process: "subprocess.Popen[str]", drain_s: float) -> None:
    """Triton ends once it has answered; if it doesn't in time, it is ended, and what it started is anyway."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(drain_s + 10)
    with suppress(ProcessLookupError):  # none of the group is left, which is how it should be
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _forget(region: str) -> None:
    """Shared memory that a server left, which was ended before it could remove it."""
    for each in _SHARED_MEMORY.glob(f"{region}*"):
        each.unlink(missing_ok=True)


def _require_listens(host: str, ports: Ports) -> None:
    """Raises: DeployError: somebody listens there, or nobody could, or two ports are one."""
    if not host:
        raise DeployError(
            "No address was named to listen on.",
            code="address-missing",
            fix=f"--host {LOOPBACK}, or 0.0.0.0 for all",
        )
    asked = (ports.http, ports.grpc, ports.metrics)
    for port in asked:
        if not 0 <= port <= 65535:
            raise DeployError(
                f"{port} is no port.",
                code="invalid-port",
                fix="give one of 1024 to 65535, or 0 for any that is free",
            )
        if port and asked.count(port) > 1:
            raise DeployError(
                f"{port} is given twice: HTTP, gRPC and metrics have a port each.",
                code="invalid-port",
                fix="give another --http-port, --grpc-port or --metrics-port; 0 for any that is free",
            )
        try:
            socket.create_server((host, port), family=_family(host)).close()
        except OSError as error:
            raise port_taken(host, port, error) from error


def _free_ports() -> Ports:
    """Of this machine alone; none twice, since all are held until all are found."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_server((LOOPBACK, 0))).getsockname()[1] for _ in range(3)]
    http, grpc, metrics = found
    return Ports(http=http, grpc=grpc, metrics=metrics)


def _allow_files(connections: int) -> None:
    """Two a connection, here and to Triton, over HTTP and over gRPC; many systems begin with 1024."""
    wanted = 4 * connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
