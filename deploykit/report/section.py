"""A question, a figure that answers it, and the table under it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, get_args

Evidence = Literal["measured", "recorded", "predicted"]
EVIDENCE: tuple[Evidence, ...] = get_args(Evidence)
Trace = dict[str, Any]
"""A series, and the layout beside it, as Plotly's JSON schema has them."""

# Okabe and Ito 2008: told apart by every kind of colour vision; the darker and lighter are left out, so that
# all of them stand on white and on black.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8c6bb1",
    "#7f7f7f",
    "#a6761d",
)
GREY = "#8a8a8a"
DASHES = ("solid", "dash", "dot", "dashdot")


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
    findings: what the figure shows, in sentences with its numbers.
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
    return escape(text).replace("$", "&#36;")


def hover(*lines: str) -> str:
    """What is shown beside the pointer."""
    return "<br>".join(map(plain, lines))


def log_axis(title: str, traces: Sequence[Trace], letter: Literal["x", "y"]) -> dict[str, Any]:
    """A logarithmic axis with numbers on it, however little the traces' values span."""
    ticks = _ticks([value for trace in traces for value in trace[letter]])
    return {
        "title": {"text": title},
        "type": "log",
        "tickvals": ticks,
        "ticktext": [f"{each:.4g}" for each in ticks],
    }


def _ticks(values: Sequence[float]) -> list[float]:
    """1, 2, 5, 10, ... around the values; closer together where that makes less than three."""
    low, high = min(values) / 1.3, max(values) * 1.3
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(each / 10 for each in range(10, 100))):
        found = [digit * 10.0**decade for decade in decades for digit in digits]
        found = [each for each in found if low <= each <= high]
        if len(found) >= 3:
            break
    return found


def joined(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def milliseconds(value: float) -> str:
    return f"{value:.4g} ms"


def giga(macs: float) -> str:
    return f"{macs / 1e9:.3g} G"
