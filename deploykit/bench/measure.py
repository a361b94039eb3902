"""Single-stream latency: one batch after another, each timed from call to answer."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deploykit.errors import DeployError

DEFAULT_SECONDS, MAX_SECONDS = 5.0, 3600.0
MIN_SAMPLES = 10
SAMPLES_FOR_P99 = 1000  # ten of them lie beyond it

# Warm-up is over once a window's median is no longer clearly under the one before it.
_WINDOW = 5
_STEADY_RATIO = 0.97
_MAX_WARM_UP_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Timings of one batch size.

    Attributes:
        batch: images a call.
        warm_up_ms: calls before the steady state, not counted.
        latency_ms: every counted call, in order.
    """

    batch: int
    warm_up_ms: tuple[float, ...]
    latency_ms: tuple[float, ...]

    def percentile_ms(self, percent: float) -> float:
        """The latency that percent of the calls stay at or under: an observed one, never interpolated."""
        return float(np.percentile(self.latency_ms, percent, method="inverted_cdf"))

    @property
    def images_per_s(self) -> float:
        return 1000 * self.batch * len(self.latency_ms) / sum(self.latency_ms)


def time_calls(
    call: Callable[[], object],
    *,
    batch: int,
    seconds: float = DEFAULT_SECONDS,
    clock_s: Callable[[], float] = time.perf_counter,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Samples:
    """Warms up until steady, then times calls for so many seconds, and at least MIN_SAMPLES of them.

    Args:
        call: runs one batch and waits for its answer.
        clock_s: seconds; another one than the machine's for tests.

    Raises:
        DeployError: seconds is not above zero.
    """
    if not 0 < seconds <= MAX_SECONDS:
        raise DeployError(
            f"{seconds:g} seconds are no time to measure in: above 0, at most {MAX_SECONDS:g}.",
            fix="give --seconds 5",
        )

    def timed_ms() -> float:
        start = clock_s()
        call()
        return 1000 * (clock_s() - start)

    warm_up = _warm_up(timed_ms)
    latency: list[float] = []
    elapsed_ms = 0.0
    while elapsed_ms < 1000 * seconds or len(latency) < MIN_SAMPLES:
        latency.append(timed_ms())
        elapsed_ms += latency[-1]
        progress(min(elapsed_ms / (1000 * seconds), len(latency) / MIN_SAMPLES))
    return Samples(batch=batch, warm_up_ms=tuple(warm_up), latency_ms=tuple(latency))


def _warm_up(timed_ms: Callable[[], float]) -> list[float]:
    """Calls until the latest window's median is no longer falling."""
    samples = [timed_ms() for _ in range(2 * _WINDOW)]
    while sum(samples) < 1000 * _MAX_WARM_UP_SECONDS:
        before, latest = samples[-2 * _WINDOW : -_WINDOW], samples[-_WINDOW:]
        if statistics.median(latest) >= _STEADY_RATIO * statistics.median(before):
            break
        samples += [timed_ms() for _ in range(_WINDOW)]
    return samples
