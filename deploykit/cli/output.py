"""Tables, JSON, notes and progress, the same for every command."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploykit.cli.terminal import raw, visible, visibly
from deploykit.util.progress import Progress as StageProgress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

_WIDEST = 1000  # columns of any table here, and more

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def print_json(value: Any) -> None:
    """Prints dataclasses, paths and plain values as JSON."""
    print(json.dumps(value, indent=1, default=_plain))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table, its first column to the left and the others to the right; never cut, whatever the width."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(visible(str(cell)) for cell in row))
    width = Console(width=_WIDEST).measure(table).maximum
    Console(file=raw(sys.stdout), markup=False, highlight=False, width=width).print(table)


def note(sentence: str) -> None:
    """A sentence beside the result, on standard error."""
    print(f"note: {sentence}", file=sys.stderr)


@contextlib.contextmanager
def phases(label: str) -> Iterator[StageProgress]:
    """A spinner whose text is the current phase; nothing where standard error is no terminal."""
    with _console().status(label) as status, visibly():

        def update(stage: str, done: float = 0, total: float | None = None) -> None:
            count = "" if total is None else f", {done:g} of {total:g}"
            status.update(visible(f"{label}: {stage}{count}"))

        yield update


@contextlib.contextmanager
def progress_bar(label: str, unit: str = "") -> Iterator[Callable[[float, float], None]]:
    """A bar fed with (done, total); nothing where standard error is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = _console()
    count = (MofNCompleteColumn(), TextColumn(unit)) if unit else ()
    columns = (TextColumn("{task.description}"), BarColumn(), *count, TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar as progress, visibly():
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def stages() -> Iterator[StageProgress]:
    """A bar a stage with its pace, fed with (stage, done, total); nothing where stderr is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = _console()
    pace = TextColumn("{task.fields[pace]}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        pace,
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar as progress, visibly():

        def update(stage: str, done: float = 0, total: float | None = None) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(visible(stage), pace="")
            task = progress.tasks[tasks[stage]]
            pace = f"{task.speed:.1f}/s" if task.speed else ""
            progress.update(tasks[stage], completed=done, total=total, pace=pace)

        yield update


def _console() -> "Console":
    """Of standard error, on which progress is shown."""
    from rich.console import Console

    return Console(file=raw(sys.stderr), markup=False)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(type(value).__name__)
