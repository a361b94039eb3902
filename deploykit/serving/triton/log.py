"""What Triton's log says, in sentences: why it did not start, and what becomes of models later."""

import re
from collections.abc import Sequence

from deploykit.util.errors import DeployError

_FAILED = re.compile(r"failed to load '(?P<model>[^']+)' version (?P<version>\d+): (?P<reason>.*)")
_LOADING = re.compile(r"\"loading: (?P<model>.+):(?P<version>\d+)\"")
_LOADED = re.compile(r"successfully loaded '(?P<model>[^']+)'")
_LIBRARY = re.compile(r"error while loading shared libraries: (?P<reason>.*)")
_ERROR = re.compile(r"^(?:error: |E\d{4} .*\] ?\"?)(?P<reason>.*)")
_NO_GPU = "has kind KIND_GPU but no GPUs are available"
_GPU_FIX = "run it where that GPU is; deploykit build-engine --gpu cpu makes one for here"
_STATUS = re.compile(r"^(?:(?:Internal|Invalid argument|Unavailable|Not found): )?(?:\w+Error: )?")


def why_not_ready(said: Sequence[str]) -> DeployError:
    """The error for what Triton said last."""
    for line in said:
        if match := _FAILED.search(line):
            return _not_loaded(match)
    for line in said:
        if match := _LIBRARY.search(line):
            return DeployError(
                f"Triton's Python backend can't start: {match['reason']}.",
                code="triton-start-failed",
                fix="name another with --python",
            )
    last = next((match["reason"] for line in reversed(said) if (match := _ERROR.search(line))), "")
    return DeployError(
        f"Triton did not start: {last.strip(chr(34)) or 'it said nothing of it'}.",
        code="triton-start-failed",
        fix="see all it says with --verbose",
    )


class News:
    """What becomes of models while Triton serves.

    Of a version that it can't load it says so at every look at the repository, and loads again whatever
    leads to it: all that is news once.
    """

    def __init__(self) -> None:
        self._versions: dict[str, str] = {}
        self._said: dict[str, str] = {}

    def in_line(self, line: str) -> str | None:
        """In a sentence; None where the line says nothing of it, or nothing new."""
        if match := _LOADING.search(line):
            self._versions[match["model"]] = match["version"]
        if match := _FAILED.search(line):
            sentence = f"{_not_loaded(match).problem} What was served before goes on."
        elif match := _LOADED.search(line):
            version = self._versions.get(match["model"])
            which = match["model"] if version is None else f"{match['model']}, version {version}"
            sentence = f"Triton has loaded {which}."
        else:
            return None
        if self._said.get(match["model"]) == sentence:
            return None
        self._said[match["model"]] = sentence
        return sentence


def _not_loaded(match: re.Match[str]) -> DeployError:
    problem, fix = _sentences(match["reason"])
    return DeployError(
        f"Triton can't load {match['model']}, version {match['version']}: {problem}",
        code="triton-load-failed",
        fix=fix or "deploykit serve --check DIR compares the repository with its engines",
    )


def _sentences(reason: str) -> tuple[str, str | None]:
    """The problem and its fix, of an error that may be one of ours."""
    if _NO_GPU in reason:
        return "it is for an NVIDIA GPU, and there is none here.", _GPU_FIX
    first = re.split(r"\\n\\n?At:|\\n", reason)[0]
    plain = _STATUS.sub("", first.removesuffix('"')).strip()
    problem, mark, fix = plain.partition(" Fix: ")
    return problem.rstrip(".") + ".", fix if mark else None
