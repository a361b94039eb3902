"""MLPerf's scenarios: single-stream, offline and server.

References:
    Reddi et al. 2020, "MLPerf Inference Benchmark", arXiv:1911.02549, sections III and IV.
"""

import math
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deploykit.bench.statistics import percentile, samples_for
from deploykit.errors import DeployError

Scenario = Literal["single-stream", "offline", "server"]

DEFAULT_SECONDS, MAX_SECONDS = 5.0, 3600.0
DEFAULT_SAMPLES, MAX_SAMPLES = samples_for(90), 1_000_000
SERVER_PERCENT = 99

# Warm-up is over once a window's median is no longer clearly under the one before it.
_WINDOW = 5
_STEADY_RATIO = 0.97
_MAX_WARM_UP_SECONDS = 10.0

# The search for a rate ends when the highest that holds and the lowest that fails are so close.
_CLOSE = 1.05
_FIRST_LOAD = 0.7  # of what the engine answers when it is never idle
_LEAST_LOAD = 0.01
_STEP = 1.2

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Timings of one scenario.

    Attributes:
        batch: images a call; in `server` the most that are run at once.
        warm_up_ms: calls before the steady state, not counted.
        latency_ms: of each call, in order; in `server` of each image, from its arrival to its answer; in
            `offline` between the end of one call and that of the next.
        seconds: wall-clock time they took together.
    """

    batch: int
    warm_up_ms: tuple[float, ...]
    latency_ms: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A rate that was tried.

    Attributes:
        rate_per_s: images that arrive a second, on average.
        requests: how many arrived before it was known whether it holds.
        late: how many of them took longer than the bound.
    """

    rate_per_s: float
    requests: int
    late: int
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What tells the time and passes it; another one than the machine's for tests.

    Attributes:
        spin_s: how exact sleeping is: the rest of a wait is spent looking at the clock.
    """

    now_s: Callable[[], float] = time.perf_counter
    sleep_s: Callable[[float], None] = time.sleep
    spin_s: float = 0.0005

    def time_ms(self, call: Callable[[], object]) -> float:
        start = self.now_s()
        call()
        return 1000 * (self.now_s() - start)

    def wait_until(self, moment_s: float) -> None:
        while (left := moment_s - self.now_s()) > 0:
            if left > self.spin_s:
                self.sleep_s(left - self.spin_s)


MACHINES_CLOCK = Clock()


def single_stream(
    call: Callable[[], object],
    *,
    batch: int,
    seconds: float = DEFAULT_SECONDS,
    samples: int = DEFAULT_SAMPLES,
    clock: Clock = MACHINES_CLOCK,
    progress: Progress = lambda fraction: None,
) -> Samples:
    """One batch after another, each timed from call to answer.

    Args:
        call: runs one batch and waits for its answer.
        seconds, samples: how long at least, and how many.

    Raises:
        DeployError: no time to measure in.
    """
    _require_time(seconds, samples)
    warmed = _warm_up(call, clock)
    latency: list[float] = []
    elapsed_ms = 0.0
    while elapsed_ms < 1000 * seconds or len(latency) < samples:
        latency.append(clock.time_ms(call))
        elapsed_ms += latency[-1]
        progress(min(elapsed_ms / (1000 * seconds), len(latency) / samples))
    return Samples(
        batch=batch, warm_up_ms=tuple(warmed), latency_ms=tuple(latency), seconds=elapsed_ms / 1000
    )


def offline(
    call: Callable[[], object],
    *,
    batch: int,
    in_flight: int,
    seconds: float = DEFAULT_SECONDS,
    samples: int = DEFAULT_SAMPLES,
    clock: Clock = MACHINES_CLOCK,
    progress: Progress = lambda fraction: None,
) -> Samples:
    """Batches as fast as they go: so many calls at the same time, none waiting for another's answer.

    Args:
        call: runs one batch and waits for its answer; safe from many threads.
        in_flight: how many calls run at once.
        seconds, samples: how long at least, and how many calls.

    Raises:
        DeployError: no time to measure in.
    """
    if in_flight == 1:  # on a thread of our own nothing is lost to handing over
        return single_stream(
            call, batch=batch, seconds=seconds, samples=samples, clock=clock, progress=progress
        )
    _require_time(seconds, samples)
    warmed = _warm_up(call, clock)
    ends: list[float] = []
    stop, lock = threading.Event(), threading.Lock()
    start = clock.now_s()

    def stream() -> None:
        while not stop.is_set():
            call()
            with lock:
                ends.append(clock.now_s())
                elapsed, count = ends[-1] - start, len(ends)
            progress(min(elapsed / seconds, count / samples))
            if elapsed >= seconds and count >= samples:
                stop.set()

    with ThreadPoolExecutor(in_flight) as pool:
        streams = [pool.submit(stream) for _ in range(in_flight)]
        try:
            for each in streams:
                each.result()
        finally:
            stop.set()
    between = 1000 * np.diff(np.array([start, *sorted(ends)]))
    return Samples(
        batch=batch,
        warm_up_ms=tuple(warmed),
        latency_ms=tuple(map(float, between)),
        seconds=max(ends) - start,
    )


def server(
    call: Callable[[int], object],
    *,
    batch: int,
    max_latency_ms: float,
    seconds: float = DEFAULT_SECONDS,
    clock: Clock = MACHINES_CLOCK,
    progress: Callable[[str], None] = lambda phase: None,
    seed: int = 0,
) -> tuple[Samples, tuple[Trial, ...]]:
    """The highest rate of Poisson arrivals that holds a bound on the 99th percentile of latency.

    Args:
        call: runs so many images at once and waits for the answer.
        batch: the most that are run at once; what waits is, without being waited for.
        max_latency_ms: from an image's arrival to its answer.
        seconds: how long each rate is tried at least; each is by 1,000 images or more.
        seed: of the arrivals, which are the same at all rates but for their pace.

    Returns:
        What was measured at that rate, and all rates that were tried.

    Raises:
        DeployError: even the lowest rate doesn't hold the bound, or there is no time to measure in.
    """
    _require_time(seconds, 1)
    if not 0 < max_latency_ms < math.inf:
        raise DeployError(
            f"A latency of {max_latency_ms:g} ms can't be held.", fix="give --max-latency 10ms, say"
        )
    progress("warming up")
    warmed = _warm_up(lambda: call(batch), clock)
    capacity = 1000 * batch / statistics.median(warmed[-_WINDOW:])
    alone_ms = statistics.median(_warm_up(lambda: call(1), clock)[-_WINDOW:])
    trials: list[Trial] = []
    best: Samples | None = None
    low, high, rate = 0.0, math.inf, _FIRST_LOAD * capacity
    while not low or high / low > _CLOSE:
        if rate < _LEAST_LOAD * capacity:
            raise DeployError(
                f"No rate holds {max_latency_ms:g} ms: an image alone takes {alone_ms:.3g} ms.",
                fix="allow a higher --max-latency",
            )
        progress(f"{rate:.3g} images/s")
        count = max(samples_for(SERVER_PERCENT), round(rate * seconds))
        latency, elapsed, late = _answer(
            call, _arrivals(rate, count, seed), batch=batch, max_latency_ms=max_latency_ms, clock=clock
        )
        holds = percentile(np.array(latency), SERVER_PERCENT) <= max_latency_ms
        trials.append(Trial(rate_per_s=rate, requests=len(latency), late=late, holds=holds))
        if holds:
            low = rate
            best = Samples(batch=batch, warm_up_ms=tuple(warmed), latency_ms=tuple(latency), seconds=elapsed)
        else:
            high = rate
        rate = _next_rate(low, high)
    assert best is not None  # noqa: S101  # the one at `low`
    return best, tuple(trials)


def _next_rate(low: float, high: float) -> float:
    """Between the highest that holds, 0 for none, and the lowest that does not, infinity for none."""
    if not low:
        return high / 2
    return low * _STEP if high == math.inf else math.sqrt(low * high)


def _arrivals(rate_per_s: float, count: int, seed: int) -> np.ndarray:
    """When each arrives, in seconds from the start."""
    return np.random.default_rng(seed).exponential(1 / rate_per_s, count).cumsum()


def _answer(
    call: Callable[[int], object], arrivals: np.ndarray, *, batch: int, max_latency_ms: float, clock: Clock
) -> tuple[list[float], float, int]:
    """Latency of each image, the seconds all took, and how many were late; ends when too many are.

    An image arrives when it is scheduled to, whatever the engine does then: latency counts from there.
    """
    allowed = len(arrivals) - -(-SERVER_PERCENT * len(arrivals) // 100)
    start, latency, late = clock.now_s(), list[float](), 0
    while len(latency) < len(arrivals) and late <= allowed:
        first = len(latency)
        clock.wait_until(start + arrivals[first])
        waiting = int(np.searchsorted(arrivals, clock.now_s() - start, side="right")) - first
        together = max(1, min(waiting, batch))
        call(together)
        end = clock.now_s() - start
        answered = 1000 * (end - arrivals[first : first + together])
        latency += map(float, answered)
        late += int((answered > max_latency_ms).sum())
    return latency, clock.now_s() - start, late


def _warm_up(call: Callable[[], object], clock: Clock) -> list[float]:
    """Calls until the latest window's median is no longer falling."""
    samples = [clock.time_ms(call) for _ in range(2 * _WINDOW)]
    while sum(samples) < 1000 * _MAX_WARM_UP_SECONDS:
        before, latest = samples[-2 * _WINDOW : -_WINDOW], samples[-_WINDOW:]
        if statistics.median(latest) >= _STEADY_RATIO * statistics.median(before):
            break
        samples += [clock.time_ms(call) for _ in range(_WINDOW)]
    return samples


def _require_time(seconds: float, samples: int) -> None:
    if not 0 < seconds <= MAX_SECONDS:
        raise DeployError(
            f"{seconds:g} seconds are no time to measure in: above 0, at most {MAX_SECONDS:g}.",
            fix="give --seconds 5",
        )
    if not 1 <= samples <= MAX_SAMPLES:
        raise DeployError(
            f"{samples} samples are not between 1 and {MAX_SAMPLES}.", fix="give --samples 1000"
        )
