"""Standard output and error: control characters are shown, not sent, and a closed pipe stops no work."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

# Unicode category Cc without line feed and tab, and the characters that change the text direction.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Return the text with control characters escaped as Python escapes them."""
    return _COMMANDS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class Unbroken:
    """A stream that goes on into the void when its reader closes the pipe, as `head` does.

    Work that prints as it goes is finished that way, and its artifacts are complete.

    Attributes:
        has_written: Anything was written to it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.has_written = False

    def write(self, text: str) -> int:
        self.has_written = True
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self.discard()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self.discard()

    def discard(self) -> None:
        """Send what is buffered, and all that follows, to the null device."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Visible:
    """A stream that shows control characters instead of sending them.

    Attributes:
        raw: The stream behind it, for colours and cursor movements of the program itself.
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
    """Print control characters visibly inside the block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Visible(_unbroken(raw(stream)))) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def raw(stream: TextIO) -> TextIO:
    """Return the stream behind a Visible one, or the stream itself."""
    return stream.raw if isinstance(stream, Visible) else stream


def has_written(stream: TextIO) -> bool:
    """Return whether anything was written to a stream of `visibly`."""
    behind: object = raw(stream)
    return isinstance(behind, Unbroken) and behind.has_written


def _unbroken(stream: TextIO) -> TextIO:
    return stream if isinstance(stream, Unbroken) else cast(TextIO, Unbroken(stream))
