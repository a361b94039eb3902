"""MLPerf's server scenario: images arrive at random times.

It searches for the highest arrival rate at which the 99th percentile of latency meets a bound.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

from deploykit.bench.scenarios import (
    DEFAULT_SECONDS,
    SYSTEM_CLOCK,
    WARM_UP_WINDOW,
    Clock,
    Samples,
    require_record_capacity,
    require_valid_duration,
    warm_up,
)
from deploykit.stats.latency_percentiles import required_samples
from deploykit.util.array_types import Float64Array
from deploykit.util.errors import DeployError
from deploykit.util.progress import Progress, no_progress

SERVER_PERCENTILE = 99

# The search ends when the highest rate that meets the bound and the lowest that does not are this close.
SEARCH_TOLERANCE = 1.05
_FIRST_LOAD = 0.7  # of the rate at which the engine is never idle
_MIN_LOAD = 0.1  # below this, images hardly ever wait for each other
_MAJORITY, _RUNS = 2, 3
DEFAULT_SEARCH_SECONDS, MAX_SEARCH_SECONDS = 1800.0, 100_000.0

RunBatch = Callable[[int], object]
"""Runs this many images as one batch and waits for the outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """An arrival rate that was tried.

    Attributes:
        rate_per_s: Images that arrive per second, on average.
        requests: Images that arrived before the verdict. 0 for the rate at which the engine is never idle: no
            higher rate can be sustained, even if the queue absorbs it for a while.
        late: How many of them took longer than the bound.
        holds: Whether two of three runs met the bound.
    """

    rate_per_s: Annotated[float, Meta(gt=0, le=1e9)]
    requests: int
    late: int
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One run at a rate: the latency of each image, the total time, and the number of late images."""

    latency_ms: list[float]
    seconds: float
    late: int
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """An engine that serves arriving images.

    Attributes:
        batch: Maximum images per call; waiting images run at once, without waiting for more.
    """

    call: RunBatch
    batch: int
    max_latency_ms: float
    clock: Clock

    def run(self, arrivals: Float64Array, stage: str, progress: Progress) -> _Run:
        """Serve images until all are served or too many were late.

        Latency counts from an image's scheduled arrival, whatever the engine is doing at that time.

        Args:
            arrivals: Arrival times, seconds from the start, ascending.
            stage: Names the run for progress.
        """
        allowed = len(arrivals) - -(-SERVER_PERCENTILE * len(arrivals) // 100)
        start, latency, late = self.clock.now_s(), list[float](), 0
        while len(latency) < len(arrivals) and late <= allowed:
            first = len(latency)
            self.clock.wait_until(start + arrivals[first])
            waiting = int(np.searchsorted(arrivals, self.clock.now_s() - start, side="right")) - first
            size = max(1, min(waiting, self.batch))
            self.call(size)
            latencies_ms = 1000 * (self.clock.now_s() - start - arrivals[first : first + size])
            latency += map(float, latencies_ms)
            late += int((latencies_ms > self.max_latency_ms).sum())
            if 100 * first // len(arrivals) != 100 * len(latency) // len(
                arrivals
            ):  # at most 100 times, because it takes time
                progress(stage, len(latency), len(arrivals))
        seconds = self.clock.now_s() - start
        return _Run(latency_ms=latency, seconds=seconds, late=late, holds=late <= allowed)

    def try_rate(
        self, rate_per_s: float, *, images: int, seed: int, stage: str, progress: Progress
    ) -> tuple[Trial, _Run]:
        """Try a rate until two of three runs agree, because one may be disturbed; return the last of them."""
        runs: list[_Run] = []
        while not any(sum(run.holds == verdict for run in runs) == _MAJORITY for verdict in (True, False)):
            arrivals = np.random.default_rng(seed + len(runs)).exponential(1 / rate_per_s, images).cumsum()
            run_stage = f"{stage}, run {len(runs) + 1} of {_MAJORITY} or {_RUNS}"
            runs.append(self.run(arrivals, run_stage, progress))
        last = runs[-1]  # the run that made the majority
        trial = Trial(
            rate_per_s=rate_per_s,
            requests=sum(len(run.latency_ms) for run in runs),
            late=sum(run.late for run in runs),
            holds=last.holds,
        )
        return trial, last


def search_server_rate(
    call: RunBatch,
    *,
    batch: int,
    max_latency_ms: float,
    seconds: float = DEFAULT_SECONDS,
    samples: int = 1,
    search_seconds: float = DEFAULT_SEARCH_SECONDS,
    clock: Clock = SYSTEM_CLOCK,
    progress: Progress = no_progress,
    seed: int = 0,
) -> tuple[Samples, tuple[Trial, ...]]:
    """Find the highest rate of Poisson arrivals whose 99th percentile of latency meets a bound.

    Args:
        batch: Maximum images per call; waiting images run at once, without waiting for more.
        max_latency_ms: Bound on the time from an image's arrival to its result.
        seconds, samples: Minimum duration and minimum number of images of each run at a rate; a run has at
            least 1,000 images, and each rate takes two or three runs.
        search_seconds: A rate is not tried if it could take longer than what is left of this time.
        progress: Receives the rate that is being tried and how much of the run is done.
        seed: Seed of the arrivals, which differ between rates only by their pace.

    Returns:
        The measurement at that rate, and all rates that were tried.

    Raises:
        DeployError: A single image takes longer than the bound, the lowest rate does not meet it, or an
            option is out of range.
    """
    require_valid_duration(seconds, samples)
    _require_valid_bounds(max_latency_ms, search_seconds)
    search_start = clock.now_s()
    progress("warming up")
    warm_up_ms = warm_up(clock.make_timer(lambda: call(batch)), clock)
    capacity = 1000 * batch / statistics.median(warm_up_ms[-WARM_UP_WINDOW:])
    alone_ms = statistics.median(warm_up(clock.make_timer(lambda: call(1)), clock)[-WARM_UP_WINDOW:])
    if alone_ms > max_latency_ms:
        raise _unattainable_error(
            f"No rate meets {max_latency_ms:g} ms: a single image takes {alone_ms:.3g} ms without waiting."
        )
    server = _Server(call=call, batch=batch, max_latency_ms=max_latency_ms, clock=clock)
    best: _Run | None = None
    low, high, rate = 0.0, max(capacity, 1000 / alone_ms), _FIRST_LOAD * capacity
    require_record_capacity(seconds, 1 / high)
    trials = [Trial(rate_per_s=high, requests=0, late=0, holds=False)]
    while best is None or high / low > SEARCH_TOLERANCE:
        if rate < _MIN_LOAD * capacity:
            raise _unattainable_error(
                f"No rate from {_MIN_LOAD * capacity:.3g} images/s up meets {max_latency_ms:g} ms: "
                f"a single image takes {alone_ms:.3g} ms."
            )
        images = max(required_samples(SERVER_PERCENTILE), samples, round(rate * seconds))
        if clock.now_s() - search_start + _RUNS * images / rate > search_seconds:
            if best is not None:
                break
            raise _inconclusive_error(rate, images, high, search_seconds)
        stage = f"trial {len(trials)}: {rate:.3g} images/s ({_describe_bracket(low, high)})"
        trial, run = server.try_rate(rate, images=images, seed=seed, stage=stage, progress=progress)
        trials.append(trial)
        if trial.holds:
            low, best = rate, run
        else:
            high = rate
        rate = math.sqrt(low * high) if low else high / 2
    measured = Samples(
        batch=batch, warm_up_ms=tuple(warm_up_ms), latency_ms=tuple(best.latency_ms), seconds=best.seconds
    )
    return measured, tuple(trials)


def _require_valid_bounds(max_latency_ms: float, search_seconds: float) -> None:
    if not 0 < search_seconds <= MAX_SEARCH_SECONDS:
        raise DeployError(
            f"--search-seconds must be above 0 and at most {MAX_SEARCH_SECONDS:g}, but is "
            f"{search_seconds:g}.",
            code="invalid-duration",
            fix=f"use --search-seconds {DEFAULT_SEARCH_SECONDS:g}",
        )
    if not 0 < max_latency_ms < math.inf:
        raise DeployError(
            f"--max-latency must be above 0 ms, but is {max_latency_ms:g} ms.",
            code="invalid-latency-target",
            fix="use for example --max-latency 10ms",
        )


def _describe_bracket(low: float, high: float) -> str:
    """Describe which rates meet the bound: `100 is met, 200 is not`."""
    return f"{low:.3g} is met, {high:.3g} is not" if low else f"{high:.3g} is not met"


def _unattainable_error(problem: str) -> DeployError:
    return DeployError(
        problem,
        code="latency-unattainable",
        fix="use a higher --max-latency, and stop other programs during the measurement",
    )


def _inconclusive_error(rate: float, images: int, high: float, search_seconds: float) -> DeployError:
    needed = _RUNS * images / rate
    return DeployError(
        f"The search ends after {search_seconds:g} s without a rate that meets the bound: {high:.3g} "
        "images/s "
        f"do not, and trying {rate:.3g} images/s takes up to {_RUNS} runs of {images:,} images, "
        f"{needed:.0f} s.",
        code="rate-search-inconclusive",
        fix=f"use --search-seconds {10 * math.ceil(needed / 5):g}, or a smaller network",
    )
