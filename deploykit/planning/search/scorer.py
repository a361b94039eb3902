"""Score networks with a user's command, several at the same time, and keep each score once it is known."""

import hashlib
import math
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from deploykit.networks.export import prepare_export
from deploykit.networks.member import Member
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.util.atomic_files import write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.json_io import from_sealed_json, to_sealed_json

_ONNX = "{onnx}"
_MAX_OUTPUT = 200  # characters of a command's output that a message quotes
_STOP_TIMEOUT_S = 5.0  # for a command to end after a signal


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkScore:
    """Score of one network.

    Attributes:
        value: Last line that the command printed; larger is better. None if the command failed.
        failure: How the command failed; None if it did not.
    """

    network: str
    command: str
    value: float | None
    failure: str | None = None


class Scorer:
    """Runs a command for each network, and keeps the scores in a folder.

    The command receives the path of the network's ONNX file, which has random weights, in place of {onnx} or
    as its last argument. The environment variables DEPLOYKIT_FAMILY, DEPLOYKIT_DEPTH, DEPLOYKIT_WIDTH and
    DEPLOYKIT_SIDE describe the network.
    """

    def __init__(self, command: str, folder: str | Path, *, jobs: int = 1) -> None:
        """Check the command.

        Args:
            command: Split into words as a shell would, but not run by a shell.
            folder: Where scores are kept.
            jobs: How many commands to run at the same time, at least 1.

        Raises:
            DeployError: The command is empty or has unbalanced quotes, or jobs is below 1.
        """
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise DeployError(
                f"--score-command cannot be split into words: {error}.",
                code="score-command-invalid",
                fix="balance its quotes",
            ) from error
        if not words:
            raise DeployError(
                "--score-command is empty.",
                code="score-command-invalid",
                fix='give --score-command "python train.py {onnx}"',
            )
        if jobs < 1:
            raise DeployError(
                f"--jobs must be at least 1, not {jobs}.", code="invalid-job-count", fix="give --jobs 1"
            )
        self._command, self._words = (
            command,
            words if any(_ONNX in word for word in words) else [*words, _ONNX],
        )
        self._folder, self._jobs = Path(folder), jobs
        self._running: set[subprocess.Popen[str]] = set()
        self._lock, self._is_stopped = Lock(), False

    def find_score(self, member: Member) -> NetworkScore | None:
        """Return the score that the folder has from this very command; None if there is none.

        Raises:
            DeployError: The file is damaged.
        """
        path = self._path(member)
        try:
            return from_sealed_json(path.read_bytes(), NetworkScore)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DeployError(
                f"{path} is not a valid score file: {error}.", code="score-invalid", fix=f"delete {path}"
            ) from error

    def score_members(self, members: Iterable[Member]) -> Iterator[NetworkScore]:
        """Yield each network's score as soon as it is ready; closing the iterator stops all commands."""
        with self._pool() as submit:
            pending = {submit(member) for member in members}
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()

    @contextmanager
    def _pool(self) -> Iterator[Callable[[Member], "Future[NetworkScore]"]]:
        pool = ThreadPoolExecutor(self._jobs)
        try:
            yield lambda member: pool.submit(self._score, member)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            with self._lock:
                self._is_stopped = True
                running = tuple(self._running)
            for process in running:
                _stop(process)
            pool.shutdown()

    def _score(self, member: Member) -> NetworkScore:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder, f"{member.name}.onnx")
            model.write_bytes(to_bytes(build_onnx_model(*prepare_export(member))))
            status, out, err = self._run(member, model)
        value = _parse_number(out)
        failure = None
        if status != 0:
            failure = f"status {status}: {_last_line(err)}"
        elif value is None:
            failure = f"its last line is not a number: {_last_line(out)}"
        score = NetworkScore(
            network=member.name,
            command=self._command,
            value=None if failure else value,
            failure=failure,
        )
        if failure is None:  # a failed command is tried again next time
            write_atomically(self._path(member), to_sealed_json(score))
        return score

    def _run(self, member: Member, model: Path) -> tuple[int, str, str]:
        scale = member.scale
        network = {
            "DEPLOYKIT_FAMILY": member.family.name,
            "DEPLOYKIT_DEPTH": f"{scale.depth!r}",
            "DEPLOYKIT_WIDTH": f"{scale.width!r}",
            "DEPLOYKIT_SIDE": f"{scale.side_px}",
        }
        process = self._start([word.replace(_ONNX, str(model)) for word in self._words], network)
        out, err = process.communicate()
        with self._lock:
            self._running.discard(process)
        return process.returncode, out, err

    def _start(self, words: list[str], network: dict[str, str]) -> subprocess.Popen[str]:
        with self._lock:
            if self._is_stopped:
                raise CancelledError
            try:
                process = subprocess.Popen(  # noqa: S603  # the user's own command
                    words,
                    env={**os.environ, **network},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                )
            except OSError as error:
                raise DeployError(
                    f"--score-command cannot be run: {error}.",
                    code="score-command-failed",
                    fix="give --score-command with a program that exists",
                ) from error
            self._running.add(process)
            return process

    def _path(self, member: Member) -> Path:
        digest = hashlib.sha256(f"{self._command}\n{member.network()!r}".encode()).hexdigest()[:8]
        return self._folder / f"{member.name}.{digest}.json"


def _stop(process: subprocess.Popen[str]) -> None:
    """Stop the process and everything that it started."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
            return


def _parse_number(text: str) -> float | None:
    try:
        value = float(_last_line(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip()[:_MAX_OUTPUT] if lines else "nothing was printed"
