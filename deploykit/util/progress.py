"""The one progress callback of the public API."""

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of long work; every function with a `progress` argument calls it this way."""

    def __call__(self, stage: str, done: float = 0, total: float | None = None) -> None:
        """Report progress.

        Args:
            stage: What is going on, for example `calibrating` or `compiling`.
            done: How much of the stage is done, from 0 to total.
            total: The whole stage, in the same unit as done; None where that is unknown.
        """
        ...


def no_progress(stage: str, done: float = 0, total: float | None = None) -> None:
    """Ignore progress; the default of every `progress` argument."""
