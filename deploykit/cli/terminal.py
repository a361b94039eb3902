"""What reaches the terminal: text. Names from files and records may hold what commands one."""

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

# All of Unicode's Cc but line feed and tab, and what changes the direction of what is written after it.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """With control characters as Python spells them."""
    return _COMMANDS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class Visible:
    """A stream that shows control characters instead of sending them.

    Attributes: raw: the stream behind it, for what colours and moves on purpose.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        self.raw.write(visible(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


@contextlib.contextmanager
def visibly() -> Iterator[None]:
    """Inside, nothing that is printed commands the terminal."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Visible(raw(stream))) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def raw(stream: TextIO) -> TextIO:
    """The stream itself, where it is shown visibly."""
    return stream.raw if isinstance(stream, Visible) else stream
