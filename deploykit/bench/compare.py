"""How much faster one measurement is than another, where they were made alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploykit.bench.record import Record, comparison_key
from deploykit.stats.estimate import Estimate
from deploykit.stats.latency_percentiles import estimate_ratio, required_samples, row_percentile
from deploykit.util.errors import DeployError

IGNORABLE_FIELDS = (
    "scenario",
    "batch",
    "scope",
    "in_flight",
    "cuda_graph",
    "threads",
    "max_latency_ms",
    "machine",
    "cores",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Attributes: ratio: of the second's figure to the first's; ignored: what was unlike in them."""

    figure: str
    first: float
    second: float
    ratio: Estimate
    ignored: tuple[str, ...]

    @property
    def is_significant(self) -> bool:
        """Whether the interval leaves out that they are equal; an open end leaves nothing out."""
        return not self.ratio.contains(1)


def compare_records(first: Record, second: Record, *, ignore: Sequence[str] = ()) -> Comparison:
    """The ratio of two records' figures: median latency, or throughput where the scenario is about that.

    Args:
        ignore: what may be unlike in them, of IGNORABLE_FIELDS.

    Raises:
        DeployError: they were not made alike.
    """
    if unknown := [each for each in ignore if each not in IGNORABLE_FIELDS]:
        raise DeployError(
            f"Records have nothing called {unknown[0]} to ignore.",
            code="unknown-field",
            fix=f"name some of {', '.join(IGNORABLE_FIELDS)}",
        )
    stamps = comparison_key(first), comparison_key(second)
    unlike = tuple(name for name, value in stamps[0].items() if stamps[1][name] != value)
    if refused := [name for name in unlike if name not in ignore]:
        differences = ", ".join(f"{name} ({stamps[0][name]} and {stamps[1][name]})" for name in refused)
        raise DeployError(
            f"These records were not made alike: {differences}.",
            code="records-not-comparable",
            fix=f"measure alike, or --ignore {','.join(refused)} if you know why that doesn't matter",
        )
    if first.method.scenario != second.method.scenario:
        raise DeployError(
            "Latency and throughput have no ratio.",
            code="records-not-comparable",
            fix="give two records of one scenario",
        )
    latencies = first.method.scenario == "single-stream"
    figures = [each.percentile_ms(50) if latencies else each.images_per_s for each in (first, second)]
    return Comparison(
        figure="p50 ms" if latencies else "images/s",
        first=figures[0].value,
        second=figures[1].value,
        ratio=_of_medians(first, second) if latencies else _of_rates(first, second),
        ignored=unlike,
    )


def _of_medians(first: Record, second: Record) -> Estimate:
    """The second's median latency over the first's, by the bootstrap of both."""
    return estimate_ratio(first.samples, second.samples, row_percentile(50), least=required_samples(50))


def _of_rates(first: Record, second: Record) -> Estimate:
    """The second's throughput over the first's; in `server` by the rates that enclose each."""
    if first.method.scenario == "server":
        below, above = first.images_per_s, second.images_per_s
        return Estimate(
            value=above.value / below.value,
            low=None if above.low is None or below.high is None else above.low / below.high,
            high=None if above.high is None or below.low is None else above.high / below.low,
        )
    found = estimate_ratio(first.samples, second.samples, lambda rows: 1 / rows.mean(axis=1), least=0)
    return found.scaled(second.method.batch / first.method.batch)
