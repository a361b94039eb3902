"""Answers on standard output: tables and JSON, the same for every command."""

import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploykit.cli.terminal import raw, visible

if TYPE_CHECKING:
    from rich.table import Table

_UNLIMITED = 1000  # columns, more than any table here has
_NARROWEST_TEXT = 24  # columns, of a cell that is wrapped

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def print_json(value: object) -> None:
    """Print dataclasses, paths and plain values as JSON."""
    print(json.dumps(value, indent=1, default=_plain))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table that fits the terminal, or the width that COLUMNS says.

    The first column is aligned to the left and the others to the right. In a table that is too wide the
    widest column is wrapped; where that column would get too narrow, each row becomes a block of lines.
    Nothing is cut. Where standard output is no terminal and COLUMNS is unset, the width is unlimited.
    """
    from rich.console import Console

    cells = [[visible(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    console = Console(file=raw(sys.stdout), markup=False, highlight=False, width=_UNLIMITED)
    table = _table(columns, cells, wrapped=None)
    natural, allowed = console.measure(table).maximum, _output_width()
    left = allowed - (natural - max(widths))  # for the widest column
    if natural <= allowed:
        console.width = natural
    elif left >= _NARROWEST_TEXT:
        console.width = allowed
        table = _table(columns, cells, wrapped=widths.index(max(widths)))
    else:
        print("\n\n".join(_stacked(columns, row, allowed) for row in cells))
        return
    console.print(table)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, wrapped: int | None) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        justify = "right" if index and index != wrapped else "left"
        table.add_column(column, justify=justify, no_wrap=index != wrapped, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    return table


def _stacked(columns: Sequence[str], row: Sequence[str], width: int) -> str:
    """Return a row as lines `column: value`, of which all but the first are indented."""
    lines = []
    for index, (column, value) in enumerate(zip(columns, row, strict=True)):
        text = f"{column}: {value}" if column else value
        if value:
            indent = "  " if index else ""
            wrapped = textwrap.wrap(
                text,
                max(width, _NARROWEST_TEXT),
                initial_indent=indent,
                subsequent_indent=f"{indent}  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
            lines.extend(wrapped)
    return "\n".join(lines)


def _output_width() -> int:
    """Return how many columns standard output has: COLUMNS, or the terminal's, or unlimited."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _UNLIMITED
    except (OSError, ValueError):  # no terminal; ValueError: a closed stream
        return _UNLIMITED


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(type(value).__name__)
