"""The callbacks of the public API: progress of long work, and notes for the user."""

from collections.abc import Callable
from typing import Protocol

Note = Callable[[str], None]
"""Receives a sentence that the user should read, but that is no error."""


def ignore_note(sentence: str) -> None:
    """Ignore a note; the default of every `note` argument."""


class Progress(Protocol):
    """Receives the progress of long work; every function with a `progress` argument calls it this way."""

    def __call__(self, stage: str, done: float = 0, total: float | None = None) -> None:
        """Report progress.

        Args:
            stage: What is going on, for example `calibrating` or `compiling`.
            done: How much of the stage is done, from 0 to total.
            total: The full amount of the stage, in the same unit as done; None if unknown.
        """
        ...


def no_progress(stage: str, done: float = 0, total: float | None = None) -> None:
    """Ignore progress; the default of every `progress` argument."""
