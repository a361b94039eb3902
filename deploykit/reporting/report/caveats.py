"""How far a sentence of the report can be relied on: what its runs say of themselves, what isn't clear."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.record import Record
from deploykit.reporting.report.gather import network_name
from deploykit.stats.estimate import Estimate

T = TypeVar("T")
_MOST = 2  # remarks in a sentence


def cautions(runs: Iterable[Record | LayerProfile]) -> str:
    """` Careful: phi 5: the run drifts ...`, a sentence to add, or nothing."""
    told = {
        f"{_run_name(run)}: {doubt[:1].lower()}{doubt[1:].rstrip('.')}": None
        for run in runs
        for doubt in run.run_caveats
    }
    if not told:
        return ""
    shown = list(told)[:_MOST]
    if len(told) > _MOST:
        shown.append(f"{len(told) - _MOST} more, see the remarks at the end")
    return f" Careful: {'; '.join(shown)}."


def in_brackets(estimate: Estimate) -> str:
    """` (1.08 to 1.11)`, or nothing where that is not known."""
    ends = estimate.format_interval(3)
    return f" ({ends})" if ends else ""


def not_clearly(
    best: T, others: Sequence[T], ratio: Callable[[T, T], Estimate], name: Callable[[T], str]
) -> list[str]:
    """Names of those whose ratio to the best leaves it possible that they are as good."""
    return [name(each) for each in others if each is not best and ratio(best, each).contains(1)]


def _run_name(run: Record | LayerProfile) -> str:
    batch = run.method.batch if isinstance(run, Record) else run.batch
    return f"{network_name(run.engine)}{'' if batch == 1 else f' at batch {batch}'}"
