"""How much faster one measurement is than another, where they were made alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploykit.bench.record import Record, stamp
from deploykit.bench.statistics import CONFIDENCE, Array, Estimate, percentile, resampled
from deploykit.errors import DeployError

IGNORABLE = (
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
    def is_clear(self) -> bool:
        """Whether the interval leaves out that they are equal."""
        return not self.ratio.low <= 1 <= self.ratio.high


def compare(first: Record, second: Record, *, ignore: Sequence[str] = ()) -> Comparison:
    """The ratio of two records' figures: median latency, or throughput where the scenario is about that.

    Args:
        ignore: what may be unlike in them, of IGNORABLE.

    Raises:
        DeployError: they were not made alike.
    """
    if unknown := [each for each in ignore if each not in IGNORABLE]:
        raise DeployError(
            f"Records have nothing called {unknown[0]} to ignore.", fix=f"name some of {', '.join(IGNORABLE)}"
        )
    stamps = stamp(first), stamp(second)
    unlike = tuple(name for name, value in stamps[0].items() if stamps[1][name] != value)
    if refused := [name for name in unlike if name not in ignore]:
        differences = ", ".join(f"{name} ({stamps[0][name]} and {stamps[1][name]})" for name in refused)
        raise DeployError(
            f"These records were not made alike: {differences}.",
            fix=f"measure alike, or --ignore {','.join(refused)} if you know why that doesn't matter",
        )
    if first.method.scenario != second.method.scenario:
        raise DeployError("Latency and throughput have no ratio.", fix="give two records of one scenario")
    if first.method.scenario == "single-stream":
        return _medians(first, second, unlike)
    return _rates(first, second, unlike)


def _medians(first: Record, second: Record, ignored: tuple[str, ...]) -> Comparison:
    """Of latency a call, by the bootstrap of both."""
    medians = [percentile(each.samples, 50) for each in (first, second)]
    return Comparison(
        figure="p50 ms",
        first=medians[0],
        second=medians[1],
        ratio=_ratio(
            medians, [resampled(each.samples, _median, seed=at) for at, each in enumerate((first, second))]
        ),
        ignored=ignored,
    )


def _rates(first: Record, second: Record, ignored: tuple[str, ...]) -> Comparison:
    rates = [each.images_per_s for each in (first, second)]
    if first.method.scenario == "server":
        ratio = Estimate(
            value=rates[1].value / rates[0].value,
            low=rates[1].low / rates[0].high,
            high=rates[1].high / rates[0].low,
        )
    else:
        found = [
            each.method.batch / resampled(each.samples, _mean, seed=at)
            for at, each in enumerate((first, second))
        ]
        ratio = _ratio([each.value for each in rates], found)
    return Comparison(
        figure="images/s", first=rates[0].value, second=rates[1].value, ratio=ratio, ignored=ignored
    )


def _ratio(values: Sequence[float], found: Sequence[Array]) -> Estimate:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(found[1] / found[0], [tail, 100 - tail])
    return Estimate(value=values[1] / values[0], low=float(low), high=float(high))


def _median(rows: Array) -> Array:
    middle: Array = np.median(rows, axis=1)
    return middle


def _mean(rows: Array) -> Array:
    mean: Array = rows.mean(axis=1)
    return mean
