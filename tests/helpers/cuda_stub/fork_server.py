"""Run test bodies in forks of one process that has the stub driver and has imported everything.

Importing takes most of a test's time, so one server imports and each body runs in a fork of it. A body
therefore has a fresh driver, and one that crashes or hangs fails its own test only.

The server reads one JSON request per line from standard input and writes one JSON reply per line.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

SECONDS = 60
"""Time after which a body is killed."""
_IMPORTS = (
    "cuda.core",
    "cuda_stub.engine",
    "cuda_stub.loaded",
    "deploykit.bench.benchmark",
    "deploykit.cli.bench",
    "deploykit.runtime.tensorrt.runner",
    "numpy.random",
    "numpy.testing",
    "tensorrt_rtx",
)
_START = "from cuda_stub.fork_server import serve; serve()"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a body ended: 0 for success, negative for a signal."""

    returncode: int
    output: str


class ForkServer:
    """The client's side of the server; restarts it if it has ended."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._process: subprocess.Popen[str] | None = None

    def run(self, folder: str, module: str, name: str, arguments: Mapping[str, Any]) -> Outcome:
        """Run the body of a test in a fork."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        request = {"folder": folder, "module": module, "name": name, "arguments": arguments}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        reply = process.stdout.readline()
        if not reply:
            return Outcome(returncode=process.wait(), output="the fork server ended; see its standard error")
        return Outcome(**json.loads(reply))

    def close(self) -> None:
        if self._process is not None:
            with self._process as process, suppress(BrokenPipeError):
                assert process.stdin is not None
                process.stdin.close()

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-c", _START],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self._process


def serve() -> None:
    """Answer requests until standard input ends; returns in each fork too, to end as a process does."""
    for name in _IMPORTS:
        importlib.import_module(name)
    while line := sys.stdin.readline():
        request = json.loads(line)
        with tempfile.TemporaryFile() as output:
            pid = os.fork()
            if pid == 0:
                _run_body(request, output.fileno())
                return
            _, status = os.waitpid(pid, 0)
            output.seek(0)
            text = output.read().decode(errors="replace")
        reply = {"returncode": os.waitstatus_to_exitcode(status), "output": text}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def _run_body(request: Mapping[str, Any], output: int) -> None:
    signal.alarm(SECONDS)  # its default action ends the process, wherever it hangs
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.path.insert(0, request["folder"])
    try:
        module = importlib.import_module(request["module"])
        getattr(module, request["name"]).body(**request["arguments"])
    except BaseException:  # whatever a body raises fails its test
        traceback.print_exc()
        sys.exit(1)
