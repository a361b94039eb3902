"""Notes beside a result: collected while a command works, printed on standard error after its answer."""

import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

SHOWN = 3  # notes of one command without -v


class Verbosity(IntEnum):
    """How much a command prints beside its answer."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


@dataclass(slots=True, kw_only=True)
class _State:
    """The notes of the command that is running."""

    verbosity: Verbosity = Verbosity.NORMAL
    important: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    prints_at_once: bool = False

    def reset(self) -> None:
        self.verbosity, self.prints_at_once = Verbosity.NORMAL, False
        self.important, self.others = [], []


_state = _State()


def verbosity() -> Verbosity:
    """Return how much the running command prints beside its answer."""
    return _state.verbosity


def set_verbosity(value: Verbosity) -> None:
    """Set how much the running command prints beside its answer."""
    _state.verbosity = value


def note(sentence: str, *, important: bool = False) -> None:
    """Keep a sentence that belongs beside the result.

    Args:
        sentence: One sentence for the user.
        important: The sentence changes what the result means, so that only --quiet hides it.
    """
    kept = _state.important if important else _state.others
    if sentence in kept:
        return
    if _state.prints_at_once:
        _print([sentence])
    else:
        kept.append(sentence)


@contextlib.contextmanager
def collected_notes() -> Iterator[None]:
    """Collect the notes of one command and print them when it ends, however it ends."""
    _state.reset()
    handler = _NoteHandler(logging.WARNING)
    logger = logging.getLogger("deploykit")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with contextlib.suppress(OSError, ValueError):  # a full disk or a closed stream is reported elsewhere
            sys.stdout.flush()
        print_notes()


def print_notes() -> None:
    """Print the notes so far: the important ones, then at most three, or all with --verbose."""
    important, others = _state.important, _state.others
    _state.important, _state.others = [], []
    shown = others if _state.verbosity is Verbosity.VERBOSE else _most_telling(others, SHOWN)
    _print([*important, *shown])
    if (hidden := len(others) - len(shown)) > 0:
        _print([f"{hidden} more note{'s'[: hidden - 1]}: -v shows {'them' if hidden > 1 else 'it'}"])


def print_notes_at_once() -> None:
    """Print the notes so far, and each later one when it comes, as a server does."""
    print_notes()
    _state.prints_at_once = True


def _most_telling(sentences: Sequence[str], count: int) -> list[str]:
    """Return so many sentences in order, preferring the first of those that begin with the same words."""
    seen: Counter[str] = Counter()
    ranks = []
    for position, sentence in enumerate(sentences):
        lead = " ".join(sentence.split()[:2])
        ranks.append((seen[lead], position))
        seen[lead] += 1
    return [sentences[position] for position in sorted(position for _, position in sorted(ranks)[:count])]


def _print(sentences: Sequence[str]) -> None:
    if _state.verbosity is not Verbosity.QUIET:
        for sentence in sentences:
            print(f"note: {sentence}", file=sys.stderr)


class _NoteHandler(logging.Handler):
    """Turns the library's warnings into notes."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage().removeprefix("note: "))
