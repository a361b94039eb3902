"""Turn Triton's log into sentences: why it did not start, and which models load or fail later."""

import re
from collections.abc import Sequence

from deploykit.util.errors import DeployError

_FAILED = re.compile(r"failed to load '(?P<model>[^']+)' version (?P<version>\d+): (?P<reason>.*)")
_LOADING = re.compile(r"\"loading: (?P<model>.+):(?P<version>\d+)\"")
_LOADED = re.compile(r"successfully loaded '(?P<model>[^']+)'")
_LIBRARY = re.compile(r"error while loading shared libraries: (?P<reason>.*)")
_ERROR = re.compile(r"^(?:error: |E\d{4} .*\] ?\"?)(?P<reason>.*)")
_NO_GPU = "has kind KIND_GPU but no GPUs are available"
_GPU_FIX = "run it on a machine with that GPU, or build one for the CPU: deploykit build-engine --gpu cpu"
_STATUS = re.compile(r"^(?:(?:Internal|Invalid argument|Unavailable|Not found): )?(?:\w+Error: )?")


def startup_error(lines: Sequence[str]) -> DeployError:
    """Return the error that the last lines of Triton's log explain."""
    for line in lines:
        if match := _FAILED.search(line):
            return _load_error(match)
    for line in lines:
        if match := _LIBRARY.search(line):
            return DeployError(
                f"Triton's Python backend can't start: {match['reason']}.",
                code="triton-start-failed",
                fix="name another Python with --python",
            )
    last = next((match["reason"] for line in reversed(lines) if (match := _ERROR.search(line))), "")
    return DeployError(
        f"Triton did not start: {last.strip(chr(34)) or 'its log gives no reason'}.",
        code="triton-start-failed",
        fix="see Triton's log with --verbose",
    )


class ModelEvents:
    """Reports which models load, or fail to, while Triton serves.

    At each look at the repository, Triton logs the same failed version again and reloads the ensembles that
    use it. Each event is reported once.
    """

    def __init__(self) -> None:
        self._versions: dict[str, str] = {}
        self._reported: dict[str, str] = {}

    def parse(self, line: str) -> str | None:
        """Return a sentence for a line of the log; None if it holds no event, or a known one."""
        if match := _LOADING.search(line):
            self._versions[match["model"]] = match["version"]
        if match := _FAILED.search(line):
            sentence = f"{_load_error(match).problem} The version before stays in service."
        elif match := _LOADED.search(line):
            version = self._versions.get(match["model"])
            which = match["model"] if version is None else f"{match['model']}, version {version}"
            sentence = f"Triton has loaded {which}."
        else:
            return None
        if self._reported.get(match["model"]) == sentence:
            return None
        self._reported[match["model"]] = sentence
        return sentence


def _load_error(match: re.Match[str]) -> DeployError:
    problem, fix = _problem_and_fix(match["reason"])
    return DeployError(
        f"Triton can't load {match['model']}, version {match['version']}: {problem}",
        code="triton-load-failed",
        fix=fix or "compare the repository with its engines: deploykit serve --check DIR",
    )


def _problem_and_fix(reason: str) -> tuple[str, str | None]:
    """Split an error into problem and fix; the fix is None unless the error is one of deploykit's."""
    if _NO_GPU in reason:
        return "it is for an NVIDIA GPU, and this machine has none.", _GPU_FIX
    first = re.split(r"\\n\\n?At:|\\n", reason)[0]
    plain = _STATUS.sub("", first.removesuffix('"')).strip()
    problem, mark, fix = plain.partition(" Fix: ")
    return problem.rstrip(".") + ".", fix if mark else None
