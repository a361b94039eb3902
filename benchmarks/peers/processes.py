"""Starts the quantizers, each in a process of its own and under the interpreter that has it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1]
MODELOPT_PYTHON = BENCHMARKS.parent / ".cache" / "peers" / "bin" / "python"
MODELOPT_MISSING = f"not run: {MODELOPT_PYTHON} is missing (make peers)"

MEMORY_SHARE = 0.9  # of what is available: beyond it a machine swaps, or kills something else
TIMEOUT_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a process took.

    Attributes:
        seconds: wall clock, start of the interpreter and imports included.
        cpu_seconds: of all its threads, user and system.
        written_s, written_cpu_s: both, with the command that writes the model where that is another.
        peak_gb: most resident memory at any time, in 10^9 bytes.
    """

    seconds: float
    cpu_seconds: float
    written_s: float
    written_cpu_s: float
    peak_gb: float


class Unfinished(SystemExit):
    """A process that failed, or reached a limit; the whole message ends a script that does not catch it.

    Attributes:
        reason: in a few words.
    """

    def __init__(self, reason: str, details: str) -> None:
        super().__init__(f"{reason}: {details}")
        self.reason = reason


def measure(command: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> Cost:
    """Runs a command to its end.

    Raises:
        Unfinished: it failed, took more memory than there is, or longer than timeout_s.
    """
    limit_gb = memory_limit_gb()
    launcher = [sys.executable, str(BENCHMARKS / "peers" / "measured.py"), f"{limit_gb:.1f}", str(timeout_s)]
    paths = [str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run([*launcher, *command], stdout=subprocess.PIPE, env=environment, check=True)
    report = json.loads(done.stdout)
    seconds, cpu_seconds = report["seconds"], report["cpu_seconds"]
    if report["status"]:
        reason = f"stopped after {timeout_s:.0f} s" if seconds > timeout_s else "failed"
        raise Unfinished(reason, f"{' '.join(command)}, within {limit_gb:.1f} GB:\n{report['tail']}")
    return Cost(
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        written_s=seconds,
        written_cpu_s=cpu_seconds,
        peak_gb=report["peak_gb"],
    )


def memory_limit_gb() -> float:
    """What a process may take at most, in 10^9 bytes."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    (available,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return MEMORY_SHARE * int(available) * 1024 / 1e9


def forward(model: Path, data: Path, count: int) -> list[str]:
    """The command that only runs the model over the images."""
    return [sys.executable, "-m", "peers.forward", str(model), str(data), str(count)]


def onnxruntime_int8(
    model: Path, data: Path, method: str, count: int, output: Path, *, nodes: Path | None = None
) -> list[str]:
    """The command that quantizes with ONNX Runtime; see onnxruntime_int8.py."""
    arguments = [str(model), str(data), method, str(count), str(output)]
    return [sys.executable, "-m", "peers.onnxruntime_int8", *arguments, *([str(nodes)] if nodes else [])]


def modelopt_int8(model: Path, data: Path, method: str, count: int, output: Path) -> list[str]:
    """The command that quantizes with ModelOpt; see modelopt_int8.py."""
    arguments = [str(model), str(data), method, str(count), str(output)]
    return [str(MODELOPT_PYTHON), "-m", "peers.modelopt_int8", *arguments]
