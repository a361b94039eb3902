"""Scores of networks by a user's command, several at once, each kept as soon as it is there."""

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
_TOLD = 200  # characters of what a failed command said
_PATIENCE_S = 5.0  # for a stopped command to end by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a command said of a network.

    Attributes:
        value: the last line it printed; the larger, the better. None where it failed.
        failure: how.
    """

    network: str
    command: str
    value: float | None
    failure: str | None = None


class Scorer:
    """Runs a command for networks, and keeps what it prints in a folder.

    The command gets the path of the network's ONNX file, with random weights, in place of {onnx} or as its
    last argument, and the network in DEPLOYKIT_FAMILY, DEPLOYKIT_DEPTH, DEPLOYKIT_WIDTH and DEPLOYKIT_SIDE.
    """

    def __init__(self, command: str, folder: Path, *, jobs: int = 1) -> None:
        """Args: command: as a shell would split it; no shell runs it. jobs: how many at once.

        Raises:
            DeployError: no command, or no job to run it.
        """
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise DeployError(
                f"--score-command can't be split into words: {error}.",
                code="score-command-invalid",
                fix="mend its quotes",
            ) from error
        if not words:
            raise DeployError(
                "--score-command is empty.",
                code="score-command-invalid",
                fix='give --score-command "python train.py {onnx}"',
            )
        if jobs < 1:
            raise DeployError(
                f"{jobs} commands at once score nothing.", code="invalid-job-count", fix="give --jobs 1"
            )
        self._command, self._words = (
            command,
            words if any(_ONNX in word for word in words) else [*words, _ONNX],
        )
        self._folder, self._jobs = folder, jobs
        self._running: set[subprocess.Popen[str]] = set()
        self._lock, self._is_stopped = Lock(), False

    def kept(self, member: Member) -> Score | None:
        """What the folder has of a network, from this very command.

        Raises:
            DeployError: the file is damaged.
        """
        path = self._path(member)
        try:
            return from_sealed_json(path.read_bytes(), Score)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DeployError(
                f"{path} is no score: {error}.", code="score-invalid", fix=f"delete {path}"
            ) from error

    def scores(self, members: Iterable[Member]) -> Iterator[Score]:
        """Of each network, in the order in which they are ready; stops all commands when it is closed."""
        with self._pool() as submit:
            pending = {submit(member) for member in members}
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()

    @contextmanager
    def _pool(self) -> Iterator[Callable[[Member], "Future[Score]"]]:
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

    def _score(self, member: Member) -> Score:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder, f"{member.name}.onnx")
            model.write_bytes(to_bytes(build_onnx_model(*prepare_export(member))))
            status, out, err = self._run(member, model)
        value = _number(out)
        failure = None
        if status != 0:
            failure = f"status {status}: {_last_line(err)}"
        elif value is None:
            failure = f"its last line is no number: {_last_line(out)}"
        score = Score(
            network=member.name,
            command=self._command,
            value=None if failure else value,
            failure=failure,
        )
        if failure is None:  # what failed is tried again the next time
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
        process = self._started([word.replace(_ONNX, str(model)) for word in self._words], network)
        out, err = process.communicate()
        with self._lock:
            self._running.discard(process)
        return process.returncode, out, err

    def _started(self, words: list[str], network: dict[str, str]) -> subprocess.Popen[str]:
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
                    f"--score-command can't be run: {error}.",
                    code="score-command-failed",
                    fix="name a program that is there",
                ) from error
            self._running.add(process)
            return process

    def _path(self, member: Member) -> Path:
        asked = hashlib.sha256(f"{self._command}\n{member.network()!r}".encode()).hexdigest()[:8]
        return self._folder / f"{member.name}.{asked}.json"


def _stop(process: subprocess.Popen[str]) -> None:
    """It, and all that it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
            return


def _number(text: str) -> float | None:
    try:
        value = float(_last_line(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip()[:_TOLD] if lines else "nothing was printed"
