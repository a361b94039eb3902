"""Compare two measurements that were made in the same way."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploykit.bench.record import Record, comparison_key
from deploykit.stats.bootstrap import estimate_ratio
from deploykit.stats.estimate import Estimate
from deploykit.stats.latency_percentiles import required_samples, row_percentile
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
    """The comparison of two records.

    Attributes:
        figure: What is compared, with its unit.
        first, second: The figure of each record.
        ratio: The second figure divided by the first, with its interval.
        ignored: The fields that differ and were ignored.
    """

    figure: str
    first: float
    second: float
    ratio: Estimate
    ignored: tuple[str, ...]

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes a ratio of 1; an open end excludes nothing."""
        return not self.ratio.contains(1)


def compare_records(first: Record, second: Record, *, ignore: Sequence[str] = ()) -> Comparison:
    """Return the ratio of the figures of two records: median latency, or throughput.

    Args:
        ignore: Fields that may differ, from IGNORABLE_FIELDS.

    Raises:
        DeployError: The records were measured in different ways.
    """
    if unknown := [each for each in ignore if each not in IGNORABLE_FIELDS]:
        raise DeployError(
            f"A record has no field {unknown[0]!r} to ignore.",
            code="unknown-field",
            fix=f"--ignore takes {', '.join(IGNORABLE_FIELDS)}",
        )
    keys = comparison_key(first), comparison_key(second)
    different = tuple(name for name, value in keys[0].items() if keys[1][name] != value)
    if disallowed := [name for name in different if name not in ignore]:
        differences = ", ".join(f"{name} ({keys[0][name]} and {keys[1][name]})" for name in disallowed)
        raise DeployError(
            f"The records were measured in different ways: {differences}.",
            code="records-not-comparable",
            fix=f"measure both in the same way, or add --ignore {','.join(disallowed)} if it does not matter",
        )
    if first.method.scenario != second.method.scenario:
        raise DeployError(
            "Latency and throughput cannot be compared.",
            code="records-not-comparable",
            fix="pass two records of the same scenario",
        )
    latencies = first.method.scenario == "single-stream"
    figures = [each.percentile_ms(50) if latencies else each.images_per_s for each in (first, second)]
    return Comparison(
        figure="p50 ms" if latencies else "images/s",
        first=figures[0].value,
        second=figures[1].value,
        ratio=_ratio_of_medians(first, second) if latencies else _ratio_of_rates(first, second),
        ignored=different,
    )


def _ratio_of_medians(first: Record, second: Record) -> Estimate:
    """Return the ratio of median latencies, by bootstrapping both records."""
    return estimate_ratio(first.samples, second.samples, row_percentile(50), least=required_samples(50))


def _ratio_of_rates(first: Record, second: Record) -> Estimate:
    """Return the ratio of throughputs; in `server`, from the rates that enclose each."""
    if first.method.scenario == "server":
        below, above = first.images_per_s, second.images_per_s
        return Estimate(
            value=above.value / below.value,
            low=None if above.low is None or below.high is None else above.low / below.high,
            high=None if above.high is None or below.low is None else above.high / below.low,
        )
    found = estimate_ratio(first.samples, second.samples, lambda rows: 1 / rows.mean(axis=1), least=0)
    return found.scaled(second.method.batch / first.method.batch)
