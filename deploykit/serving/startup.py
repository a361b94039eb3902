"""What Triton's log says of why it did not start, in a sentence."""

import re
from collections.abc import Sequence

from deploykit.errors import DeployError

_FAILED = re.compile(r"failed to load '(?P<model>[^']+)' version (?P<version>\d+): (?P<reason>.*)")
_LIBRARY = re.compile(r"error while loading shared libraries: (?P<reason>.*)")
_ERROR = re.compile(r"^(?:error: |E\d{4} .*\] ?\"?)(?P<reason>.*)")
_STATUS = re.compile(r"^(?:(?:Internal|Invalid argument|Unavailable|Not found): )?(?:\w+Error: )?")


def why_not_ready(said: Sequence[str]) -> DeployError:
    """The error for what Triton said last."""
    for line in said:
        if match := _FAILED.search(line):
            problem, fix = _sentences(match["reason"])
            return DeployError(
                f"Triton can't load {match['model']}, version {match['version']}: {problem}",
                fix=fix or "deploykit serve --check DIR compares the repository with its engines",
            )
    for line in said:
        if match := _LIBRARY.search(line):
            return DeployError(
                f"Triton's Python backend can't start: {match['reason']}.", fix="name another with --python"
            )
    last = next((match["reason"] for line in reversed(said) if (match := _ERROR.search(line))), "")
    return DeployError(
        f"Triton did not start: {last.strip(chr(34)) or 'it said nothing of it'}.",
        fix="see all it says with --verbose",
    )


def _sentences(reason: str) -> tuple[str, str | None]:
    """The problem and its fix, of an error that may be one of ours."""
    first = re.split(r"\\n\\n?At:|\\n", reason)[0]
    plain = _STATUS.sub("", first.removesuffix('"')).strip()
    problem, mark, fix = plain.partition(" Fix: ")
    return problem.rstrip(".") + ".", fix if mark else None
