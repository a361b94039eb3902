"""A section of the report: a question, a plot that answers it, and the table below."""

from dataclasses import dataclass
from typing import Any, get_args

from deploykit.planning.latency_source import Evidence

EVIDENCE: tuple[Evidence, ...] = get_args(Evidence)
Trace = dict[str, Any]
"""One series of a plot, see reporting.report.traces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Heading of a table column.

    Attributes:
        evidence: How every figure in the column was obtained; None for names, counts, or if each row says it.
    """

    title: str
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Table of texts.

    Attributes:
        rows: One cell per column.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One question and its answer.

    Attributes:
        name: Anchor in the page.
        findings: Sentences about what the plot shows, with their numbers, intervals and caveats.
        notes: Sentences about how it was made.
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
        """How the section's figures were obtained, each kind once."""
        mentioned: set[str | None] = {column.evidence for column in self.table.columns}
        mentioned |= {text for row in self.table.rows for text in row}
        return tuple(each for each in EVIDENCE if each in mentioned)
