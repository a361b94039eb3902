"""Progress of long work: a bar on a terminal, a line every ten seconds elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from deploykit.cli.notes import Verbosity, verbosity
from deploykit.cli.terminal import raw, visible, visibly
from deploykit.util.progress import Progress, no_progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

LOG_SECONDS = 10.0  # between two lines where standard error is no terminal


@contextlib.contextmanager
def show_progress(label: str) -> Iterator[Progress]:
    """Show progress on standard error while the block runs; nothing with --quiet.

    Args:
        label: What the command is doing, for example `building`.
    """
    from rich.console import Console

    console = Console(file=raw(sys.stderr), markup=False)
    if verbosity() is Verbosity.QUIET:
        yield no_progress
    elif console.is_terminal:
        with _bar(label, console) as progress:
            yield progress
    else:
        with _Log(label) as log:
            yield log


@contextlib.contextmanager
def _bar(label: str, console: "Console") -> Iterator[Progress]:
    """One line on a terminal: the current stage, and how far it is where its total is known."""
    from rich import progress as rich

    columns = (
        rich.SpinnerColumn(),
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.TextColumn("{task.fields[count]}"),
        rich.TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    lock = threading.Lock()
    with rich.Progress(*columns, console=console, transient=True) as bar, visibly():
        waiting = bar.add_task(visible(label), total=None, count="")

        def update(stage: str, done: float = 0, total: float | None = None) -> None:
            with lock:
                if stage not in tasks:
                    tasks[stage] = bar.add_task(visible(_titled(label, stage)), total=None, count="")
                current = tasks[stage]
                for task in (waiting, *tasks.values()):
                    bar.update(task, visible=task == current)
                bar.update(current, completed=done, total=total, count=_count(done, total))

        yield update


class _Log:
    """Prints where the work is every ten seconds, from a thread, so that a long step is no silence."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._state: tuple[str, float, float | None] = (label, 0.0, None)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deploykit-progress", daemon=True)

    def __call__(self, stage: str, done: float = 0, total: float | None = None) -> None:
        self._state = (stage, done, total)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(LOG_SECONDS):
            stage, done, total = self._state
            parts = [_titled(self._label, stage), _count(done, total), f"{time.monotonic() - began:.0f} s"]
            print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)


def _titled(label: str, stage: str) -> str:
    return label if stage == label else f"{label}: {stage}"


def _count(done: float, total: float | None) -> str:
    """Return `3/7`, or a percentage where the unit is no whole thing; empty where the total is unknown."""
    if not total:
        return ""
    whole = float(done).is_integer() and float(total).is_integer()
    return f"{done:.0f}/{total:.0f}" if whole else f"{100 * min(done / total, 1):.0f} %"
