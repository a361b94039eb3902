"""Say how reliable a finding is: what its runs warn about, and what is not clear."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.record import Record
from deploykit.reporting.report.engine_facts import network_name
from deploykit.stats.estimate import Estimate

T = TypeVar("T")
_MAX_CAVEATS = 2  # in one sentence


def format_caveats(runs: Iterable[Record | LayerProfile]) -> str:
    """Return a sentence to append, ` Caution: phi 5: the run drifts ...`, or nothing."""
    caveats = list(
        dict.fromkeys(
            f"{_run_name(run)}: {doubt[:1].lower()}{doubt[1:].rstrip('.')}"
            for run in runs
            for doubt in run.run_caveats
        )
    )
    if not caveats:
        return ""
    shown = caveats[:_MAX_CAVEATS]
    if len(caveats) > _MAX_CAVEATS:
        shown.append(f"{len(caveats) - _MAX_CAVEATS} more, listed at the end")
    return f" Caution: {'; '.join(shown)}."


def format_interval(estimate: Estimate) -> str:
    """Return ` (1.08 to 1.11)`, or nothing if the interval is unknown."""
    ends = estimate.format_interval(3)
    return f" ({ends})" if ends else ""


def find_ties(
    best: T, others: Sequence[T], ratio: Callable[[T, T], Estimate], name: Callable[[T], str]
) -> list[str]:
    """Return the names of those whose ratio to the best may be 1, so that they may be as good."""
    return [name(each) for each in others if each is not best and ratio(best, each).contains(1)]


def _run_name(run: Record | LayerProfile) -> str:
    batch = run.method.batch if isinstance(run, Record) else run.batch
    return f"{network_name(run.engine)}{'' if batch == 1 else f' at batch {batch}'}"
