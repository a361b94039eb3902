"""A question, a figure that answers it, and the table under it."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, get_args

Evidence = Literal["measured", "recorded", "predicted"]
EVIDENCE: tuple[Evidence, ...] = get_args(Evidence)
Trace = dict[str, Any]
"""A series, see reporting.report.traces."""

_LONGEST = 44  # characters of a name in a plot
_LINE = 34


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Attributes: evidence: of every figure in it; None for what is a name, a count, or said in each row."""

    title: str
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Attributes: rows: as texts, a cell a column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Attributes:
    name: of its place in the page.
    findings: what the figure shows, in sentences with its numbers, how sure they are, and what to know of
        the runs that they are of.
    notes: what to know of how it was made.
    """

    name: str
    title: str
    findings: tuple[str, ...]
    traces: tuple[Trace, ...]
    layout: dict[str, Any]
    table: Table
    notes: tuple[str, ...] = ()

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """What its figures are, those that are at all."""
        said: set[str | None] = {column.evidence for column in self.table.columns}
        said |= {text for row in self.table.rows for text in row}
        return tuple(each for each in EVIDENCE if each in said)


def plain(text: str) -> str:
    """Text that stays text in a plot, where labels may have tags and links, and formulas between dollars."""
    return escape(text, quote=False).replace("$", "&#36;")


def label(*parts: str) -> str:
    """A name in a plot: of parts that are cut in their middle where they are long, over several lines."""
    cut = [each if len(each) <= _LONGEST else f"{each[:28]}…{each[-15:]}" for each in parts]
    between = ", " if sum(map(len, cut)) <= _LINE else ",<br>"
    return between.join(map(plain, cut))


def hover(*lines: str) -> str:
    """What is shown beside the pointer."""
    return "<br>".join(label(line) if len(line) > 2 * _LONGEST else plain(line) for line in lines)


def joined(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def counted(number: int, thing: str) -> str:
    """`1 record`, `2 records`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def milliseconds(value: float) -> str:
    return f"{value:.4g} ms"


def giga(macs: float) -> str:
    return f"{macs / 1e9:.3g} G"
