"""Triton's process: its command line, start, readiness and end."""

import ctypes
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from deploykit.serving.triton.installation import TritonInstallation
from deploykit.serving.triton.log import startup_error
from deploykit.serving.triton.options import LOOPBACK, Ports, ServerOptions
from deploykit.util.errors import DeployError

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where Triton's processes exchange tensors
_BODY_OPTION = "--http-max-input-size"
_READY_POLL_S = 0.05
_KILL_AFTER_S = 10.0  # beyond Triton's own exit timeout


def triton_command(
    repository: Path,
    triton: TritonInstallation,
    options: ServerOptions,
    *,
    folder: Path,
    ports: Ports,
    memory_prefix: str,
) -> list[str]:
    """Return the command that starts Triton.

    Args:
        folder: An empty folder, to arrange backends in.
        ports: Triton's own ports, on 127.0.0.1.
        memory_prefix: Prefix of the names of its shared memory.
    """
    secret = secrets.token_hex(16)
    command = [
        str(triton.executable),
        f"--model-repository={repository.absolute()}",
        *(f"--{each}-address={LOOPBACK}" for each in ("http", "grpc", "metrics")),
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        "--strict-readiness=false",  # one bad new version would make the whole server unready
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={max(1, round(options.shutdown_timeout_s))}",
        f"--backend-config=python,shm-region-prefix-name={memory_prefix}",
        # Shared memory would let clients make the server read and write other processes' memory.
        f"--http-restricted-api=shared-memory,trace,logging:deploykit-key={secret}",
        f"--grpc-restricted-protocol=shared-memory,trace,logging:deploykit-key={secret}",
    ]
    if options.poll_s is not None:
        command += ["--model-control-mode=poll", f"--repository-poll-secs={max(1, round(options.poll_s))}"]
    if triton.supports_option(_BODY_OPTION):  # its default is 64 MiB, whatever the models need
        command.append(f"{_BODY_OPTION}={options.body_bytes}")
    backends = triton.backend_folder(folder / "backends")
    return command if backends is None else [*command, f"--backend-directory={backends}"]


def start_triton(command: list[str], triton: TritonInstallation) -> "subprocess.Popen[str]":
    """Start Triton; it ends when this process does.

    Raises:
        DeployError: The executable can't be started.
    """
    libc = ctypes.CDLL(None)
    try:
        return subprocess.Popen(  # noqa: S603  # the executable was located, and the arguments are ours
            command,
            env={**os.environ, **triton.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C goes to deploykit alone, which stops Triton in order
            preexec_fn=lambda: libc.prctl(1, signal.SIGTERM),  # noqa: PLW1509  # PR_SET_PDEATHSIG
        )
    except OSError as error:
        raise DeployError(
            f"Cannot start {command[0]}: {error.strerror}.",
            code="triton-start-failed",
            fix="reinstall nvidia-pytriton: pip install --force-reinstall nvidia-pytriton",
        ) from error


def read_log(process: "subprocess.Popen[str]", receive: Callable[[str], None]) -> None:
    """Pass on what Triton prints, line by line, until it ends."""
    assert process.stdout is not None  # noqa: S101  # a pipe was asked for
    with process.stdout:
        for line in process.stdout:
            receive(line.rstrip("\n"))


def wait_until_ready(
    process: "subprocess.Popen[str]", port: int, timeout_s: float, log: Sequence[str]
) -> None:
    """Wait until all models are loaded and warm.

    Args:
        port: Triton's HTTP port.
        log: The lines it has printed; grows meanwhile.

    Raises:
        DeployError: Triton ended, or takes too long.
    """
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if process.poll() is not None:
            time.sleep(_READY_POLL_S)  # its last lines are still being read
            raise startup_error(list(log))
        if is_ready(port):
            return
        time.sleep(_READY_POLL_S)
    raise DeployError(
        f"Triton was not ready after {timeout_s:g} s.",
        code="triton-start-timeout",
        fix="raise --startup-timeout, or see Triton's log with --verbose",
    )


def is_ready(port: int) -> bool:
    connection = HTTPConnection(LOOPBACK, port, timeout=5)  # never through a proxy that the environment names
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def stop_triton(process: "subprocess.Popen[str]", timeout_s: float) -> None:
    """Let Triton answer and end; kill it if that takes too long, and kill what it started in any case."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s + _KILL_AFTER_S)
    with suppress(ProcessLookupError):  # usually none of the group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def remove_shared_memory(prefix: str) -> None:
    """Remove the shared memory of a server that was killed before it could do so."""
    for each in _SHARED_MEMORY.glob(f"{prefix}*"):
        each.unlink(missing_ok=True)
