"""MLPerf's server scenario: images arrive at random, and the highest rate is sought that holds a latency."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from msgspec import Meta

from deploykit.bench.scenarios import (
    DEFAULT_SECONDS,
    SYSTEM_CLOCK,
    WARM_UP_WINDOW,
    Clock,
    Progress,
    Samples,
    require_record_capacity,
    require_valid_duration,
    warm_up,
)
from deploykit.stats.latency_percentiles import required_samples
from deploykit.util.array_types import Float64Array
from deploykit.util.errors import DeployError

SERVER_PERCENTILE = 99

# The search ends when the highest rate that holds and the lowest that does not are so close.
SEARCH_TOLERANCE = 1.05
_FIRST_LOAD = 0.7  # of what the engine answers when it is never idle
_LEAST_LOAD = 0.1  # with less, images hardly ever wait for each other
_MAJORITY, _RUNS = 2, 3
DEFAULT_SEARCH_SECONDS, MAX_SEARCH_SECONDS = 1800.0, 100_000.0

RunBatch = Callable[[int], object]
"""Runs so many images at once and waits for the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A rate that was tried.

    Attributes:
        rate_per_s: images that arrive a second, on average.
        requests: how many arrived before it was known whether it holds; 0 for what the engine answers when it
            is never idle, which no rate can be above, whatever a queue takes in for a while.
        late: how many of them took longer than the bound.
        holds: in two of three runs.
    """

    rate_per_s: Annotated[float, Meta(gt=0, le=1e9)]
    requests: int
    late: int
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Images that arrived at a rate: the latency of each, the time all took, how many were late."""

    latency_ms: list[float]
    seconds: float
    late: int
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """Attributes: batch: the most that is run at once; what waits is, without being waited for."""

    call: RunBatch
    batch: int
    max_latency_ms: float
    clock: Clock

    def answer(self, arrivals: Float64Array, progress: Progress) -> _Run:
        """Ends when all are answered, or too many were late.

        An image arrives when it is scheduled to, whatever the engine does then: latency counts from there.

        Args:
            arrivals: when each does, in seconds from the start.
        """
        allowed = len(arrivals) - -(-SERVER_PERCENTILE * len(arrivals) // 100)
        start, latency, late = self.clock.now_s(), list[float](), 0
        while len(latency) < len(arrivals) and late <= allowed:
            first = len(latency)
            self.clock.wait_until(start + arrivals[first])
            waiting = int(np.searchsorted(arrivals, self.clock.now_s() - start, side="right")) - first
            together = max(1, min(waiting, self.batch))
            self.call(together)
            answered = 1000 * (self.clock.now_s() - start - arrivals[first : first + together])
            latency += map(float, answered)
            late += int((answered > self.max_latency_ms).sum())
            if 100 * first // len(arrivals) != 100 * len(latency) // len(arrivals):  # seldom: it takes time
                progress(len(latency) / len(arrivals))
        seconds = self.clock.now_s() - start
        return _Run(latency_ms=latency, seconds=seconds, late=late, holds=late <= allowed)

    def try_rate(
        self, rate_per_s: float, *, images: int, seed: int, progress: Callable[[int, float], None]
    ) -> tuple[Trial, _Run]:
        """Two of three runs decide, as one may meet what the machine does once; and the last that agrees."""
        runs: list[_Run] = []
        while not any(sum(run.holds == verdict for run in runs) == _MAJORITY for verdict in (True, False)):
            arrivals = np.random.default_rng(seed + len(runs)).exponential(1 / rate_per_s, images).cumsum()
            runs.append(self.answer(arrivals, partial(progress, len(runs) + 1)))
        last = runs[-1]  # which made the majority
        trial = Trial(
            rate_per_s=rate_per_s,
            requests=sum(len(run.latency_ms) for run in runs),
            late=sum(run.late for run in runs),
            holds=last.holds,
        )
        return trial, last


def run_server(
    call: RunBatch,
    *,
    batch: int,
    max_latency_ms: float,
    seconds: float = DEFAULT_SECONDS,
    samples: int = 1,
    search_seconds: float = DEFAULT_SEARCH_SECONDS,
    clock: Clock = SYSTEM_CLOCK,
    progress: Callable[[str, float | None], None] = lambda phase, fraction: None,
    seed: int = 0,
) -> tuple[Samples, tuple[Trial, ...]]:
    """The highest rate of Poisson arrivals that holds a bound on the 99th percentile of latency.

    Args:
        batch: the most that are run at once; what waits is, without being waited for.
        max_latency_ms: from an image's arrival to its answer.
        seconds, samples: how long a rate is tried at least, twice or thrice, and by how many images; each
            time by 1,000 or more.
        search_seconds: no rate is tried that could take longer than what is left of it.
        progress: told which rate is tried, and how much of that is done.
        seed: of the arrivals, which are the same at all rates but for their pace.

    Returns:
        What was measured at that rate, and all rates that were tried.

    Raises:
        DeployError: an image alone takes longer than the bound, even the lowest rate doesn't hold it, or
            there is no time to measure in.
    """
    require_valid_duration(seconds, samples)
    if not 0 < search_seconds <= MAX_SEARCH_SECONDS:
        raise DeployError(
            f"A search of {search_seconds:g} seconds is none: above 0, at most {MAX_SEARCH_SECONDS:g}.",
            code="invalid-duration",
            fix=f"give --search-seconds {DEFAULT_SEARCH_SECONDS:g}",
        )
    if not 0 < max_latency_ms < math.inf:
        raise DeployError(
            f"A latency of {max_latency_ms:g} ms can't be held.",
            code="invalid-latency-target",
            fix="give --max-latency 10ms, say",
        )
    began = clock.now_s()
    progress("warming up", None)
    warmed = warm_up(clock.timing(lambda: call(batch)), clock)
    capacity = 1000 * batch / statistics.median(warmed[-WARM_UP_WINDOW:])
    alone_ms = statistics.median(warm_up(clock.timing(lambda: call(1)), clock)[-WARM_UP_WINDOW:])
    if alone_ms > max_latency_ms:
        raise _nothing_holds(
            f"No rate holds {max_latency_ms:g} ms: an image alone takes {alone_ms:.3g} ms without waiting."
        )
    tried = _Server(call=call, batch=batch, max_latency_ms=max_latency_ms, clock=clock)
    best: _Run | None = None
    low, high, rate = 0.0, max(capacity, 1000 / alone_ms), _FIRST_LOAD * capacity
    require_record_capacity(seconds, 1 / high)
    trials = [Trial(rate_per_s=high, requests=0, late=0, holds=False)]
    while best is None or high / low > SEARCH_TOLERANCE:
        if rate < _LEAST_LOAD * capacity:
            raise _nothing_holds(
                f"No rate from {_LEAST_LOAD * capacity:.3g} images/s on holds {max_latency_ms:g} ms: "
                f"an image alone takes {alone_ms:.3g} ms."
            )
        images = max(required_samples(SERVER_PERCENTILE), samples, round(rate * seconds))
        if clock.now_s() - began + _RUNS * images / rate > search_seconds:
            if best is not None:
                break
            raise _no_time(rate, images, high, search_seconds)
        told = f"try {len(trials)}: {rate:.3g} images/s ({_known(low, high)}), run"
        trial, run = tried.try_rate(rate, images=images, seed=seed, progress=partial(_tell, progress, told))
        trials.append(trial)
        if trial.holds:
            low, best = rate, run
        else:
            high = rate
        rate = math.sqrt(low * high) if low else high / 2
    found = Samples(
        batch=batch, warm_up_ms=tuple(warmed), latency_ms=tuple(best.latency_ms), seconds=best.seconds
    )
    return found, tuple(trials)


def _tell(progress: Callable[[str, float | None], None], told: str, run: int, fraction: float) -> None:
    progress(f"{told} {run} of {_MAJORITY} or {_RUNS}", fraction)


def _known(low: float, high: float) -> str:
    """`100 hold, 200 don't`."""
    return f"{low:.3g} hold, {high:.3g} don't" if low else f"{high:.3g} don't hold"


def _nothing_holds(problem: str) -> DeployError:
    return DeployError(
        problem,
        code="latency-unattainable",
        fix="allow a higher --max-latency, and let nothing else run meanwhile",
    )


def _no_time(rate: float, images: int, high: float, search_seconds: float) -> DeployError:
    needed = _RUNS * images / rate
    return DeployError(
        f"No rate is known to hold, and {high:.3g} images/s don't: to try {rate:.3g} images/s takes "
        f"{images:,} images up to {_RUNS} times, {needed:.0f} s, and the search ends after "
        f"{search_seconds:g}.",
        code="rate-search-inconclusive",
        fix=f"give --search-seconds {10 * math.ceil(needed / 5):g}, or take a smaller network",
    )
