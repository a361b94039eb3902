"""MLPerf's scenarios single-stream and offline, and what server.py shares with them.

References:
    Reddi et al. 2020, "MLPerf Inference Benchmark", arXiv:1911.02549, sections III and IV.
"""

import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deploykit.stats.latency_percentiles import required_samples
from deploykit.util.errors import DeployError

Scenario = Literal["single-stream", "offline", "server"]

DEFAULT_SECONDS, MAX_SECONDS = 5.0, 3600.0
DEFAULT_SAMPLES, MAX_SAMPLES = required_samples(90), 1_000_000

# Warm-up is over once a window's median is no longer clearly under the one before it.
WARM_UP_WINDOW = 5
_STEADY_RATIO = 0.97
_MAX_WARM_UP_SECONDS = 10.0

Progress = Callable[[float], None]
TimedBatch = Callable[[], float]
"""Runs one batch, and gives what is timed of it, in ms."""


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

    def timing(self, call: Callable[[], object]) -> TimedBatch:
        return lambda: self.time_ms(call)

    def wait_until(self, moment_s: float) -> None:
        while (left := moment_s - self.now_s()) > 0:
            if left > self.spin_s:
                self.sleep_s(left - self.spin_s)


SYSTEM_CLOCK = Clock()


def run_single_stream(
    call: Callable[[], object],
    *,
    batch: int,
    seconds: float = DEFAULT_SECONDS,
    samples: int = DEFAULT_SAMPLES,
    clock: Clock = SYSTEM_CLOCK,
    progress: Progress = lambda fraction: None,
) -> Samples:
    """One batch after another, each timed from call to answer.

    Args:
        call: runs one batch and waits for its answer.
        seconds, samples: how long at least, and how many.

    Raises:
        DeployError: no time to measure in.
    """
    return run_sequential(
        clock.timing(call), batch=batch, seconds=seconds, samples=samples, clock=clock, progress=progress
    )


def run_sequential(
    sample: TimedBatch,
    *,
    batch: int,
    seconds: float = DEFAULT_SECONDS,
    samples: int = DEFAULT_SAMPLES,
    clock: Clock = SYSTEM_CLOCK,
    progress: Progress = lambda fraction: None,
) -> Samples:
    """As single_stream, of calls that say themselves what they took.

    Args:
        clock: tells how long measuring lasts.
    """
    require_valid_duration(seconds, samples)
    began = clock.now_s()
    warmed = warm_up(sample, clock)
    require_record_capacity(seconds, (clock.now_s() - began) / len(warmed))
    latency: list[float] = []
    start, elapsed = clock.now_s(), 0.0
    while elapsed < seconds or len(latency) < samples:
        latency.append(sample())
        elapsed = clock.now_s() - start
        progress(min(elapsed / seconds, len(latency) / samples))
    return Samples(batch=batch, warm_up_ms=tuple(warmed), latency_ms=tuple(latency), seconds=elapsed)


def run_offline(
    call: Callable[[], object],
    *,
    batch: int,
    in_flight: int,
    seconds: float = DEFAULT_SECONDS,
    samples: int = DEFAULT_SAMPLES,
    clock: Clock = SYSTEM_CLOCK,
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
        return run_single_stream(
            call, batch=batch, seconds=seconds, samples=samples, clock=clock, progress=progress
        )
    require_valid_duration(seconds, samples)
    began = clock.now_s()
    warmed = warm_up(clock.timing(call), clock)
    require_record_capacity(seconds, (clock.now_s() - began) / len(warmed) / in_flight)
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


def warm_up(sample: TimedBatch, clock: Clock) -> list[float]:
    """Samples until the latest window's median is no longer falling."""
    start = clock.now_s()
    samples = [sample() for _ in range(2 * WARM_UP_WINDOW)]
    while clock.now_s() - start < _MAX_WARM_UP_SECONDS:
        before, latest = samples[-2 * WARM_UP_WINDOW : -WARM_UP_WINDOW], samples[-WARM_UP_WINDOW:]
        if statistics.median(latest) >= _STEADY_RATIO * statistics.median(before):
            break
        samples += [sample() for _ in range(WARM_UP_WINDOW)]
    return samples


def require_record_capacity(seconds: float, each_s: float) -> None:
    """Fails where samples of so long fill a record before that time is over: now rather than then."""
    if seconds > MAX_SAMPLES * each_s:
        raise DeployError(
            f"So fast an engine would make {seconds / max(each_s, 1e-9):,.0f} samples; a record keeps "
            f"{MAX_SAMPLES:,}.",
            code="too-many-samples",
            fix=f"give --seconds {max(MAX_SAMPLES * each_s / 2, 0.01):.2g}, or a larger --batch",
        )


def require_valid_duration(seconds: float, samples: int) -> None:
    if not 0 < seconds <= MAX_SECONDS:
        raise DeployError(
            f"{seconds:g} seconds are no time to measure in: above 0, at most {MAX_SECONDS:g}.",
            code="invalid-duration",
            fix="give --seconds 5",
        )
    if not 1 <= samples <= MAX_SAMPLES:
        raise DeployError(
            f"{samples} samples are not between 1 and {MAX_SAMPLES}.",
            code="invalid-sample-count",
            fix="give --samples 1000",
        )
