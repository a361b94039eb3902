"""MLPerf's scenarios single-stream and offline, and what they share with server_scenario.py.

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
from deploykit.util.progress import Progress, no_progress

Scenario = Literal["single-stream", "offline", "server"]

DEFAULT_SECONDS, MAX_SECONDS = 5.0, 3600.0
DEFAULT_SAMPLES, MAX_SAMPLES = required_samples(90), 1_000_000

# Warm-up ends when the median of a window is no longer clearly lower than that of the window before.
WARM_UP_WINDOW = 5
_STEADY_RATIO = 0.97
_MAX_WARM_UP_SECONDS = 10.0

TimedBatch = Callable[[], float]
"""Runs one batch and returns its time, ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """The timings of one scenario.

    Attributes:
        batch: Images per call; in `server` the maximum.
        warm_up_ms: Calls before the steady state, which are not counted.
        latency_ms: Time of each call in order. In `server`, time of each image from its arrival to its
            result. In `offline`, time between the ends of consecutive calls.
        seconds: Wall-clock time of all calls together.
    """

    batch: int
    warm_up_ms: tuple[float, ...]
    latency_ms: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """A clock that can also wait; tests replace the system clock.

    Attributes:
        spin_s: Accuracy of sleeping; the rest of a wait is spent polling the clock.
    """

    now_s: Callable[[], float] = time.perf_counter
    sleep_s: Callable[[float], None] = time.sleep
    spin_s: float = 0.0005

    def time_ms(self, call: Callable[[], object]) -> float:
        """Run a call and return its time, ms."""
        start = self.now_s()
        call()
        return 1000 * (self.now_s() - start)

    def make_timer(self, call: Callable[[], object]) -> TimedBatch:
        """Return a function that runs the call and returns its time, ms."""
        return lambda: self.time_ms(call)

    def wait_until(self, moment_s: float) -> None:
        """Wait until the clock shows this time."""
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
    progress: Progress = no_progress,
) -> Samples:
    """Run one batch after another and time each.

    Args:
        call: Runs one batch and waits for its outputs.
        seconds, samples: Minimum duration and minimum number of calls.

    Raises:
        DeployError: The duration or the number of samples is out of range.
    """
    return run_sequential(
        clock.make_timer(call), batch=batch, seconds=seconds, samples=samples, clock=clock, progress=progress
    )


def run_sequential(
    sample: TimedBatch,
    *,
    batch: int,
    seconds: float = DEFAULT_SECONDS,
    samples: int = DEFAULT_SAMPLES,
    clock: Clock = SYSTEM_CLOCK,
    progress: Progress = no_progress,
) -> Samples:
    """Run one batch after another, where each call returns its own time; see run_single_stream.

    Args:
        clock: Measures how long the scenario lasts.
    """
    require_valid_duration(seconds, samples)
    warm_up_start = clock.now_s()
    warm_up_ms = warm_up(sample, clock)
    require_record_capacity(seconds, (clock.now_s() - warm_up_start) / len(warm_up_ms))
    latency: list[float] = []
    stage = f"measuring batch {batch}"
    start, elapsed = clock.now_s(), 0.0
    while elapsed < seconds or len(latency) < samples:
        latency.append(sample())
        elapsed = clock.now_s() - start
        progress(stage, min(elapsed / seconds, len(latency) / samples, 1), 1)
    return Samples(batch=batch, warm_up_ms=tuple(warm_up_ms), latency_ms=tuple(latency), seconds=elapsed)


def run_offline(
    call: Callable[[], object],
    *,
    batch: int,
    in_flight: int,
    seconds: float = DEFAULT_SECONDS,
    samples: int = DEFAULT_SAMPLES,
    clock: Clock = SYSTEM_CLOCK,
    progress: Progress = no_progress,
) -> Samples:
    """Run batches as fast as possible, with several calls in flight.

    Args:
        call: Runs one batch and waits for its outputs; safe to call from many threads.
        in_flight: Concurrent calls.
        seconds, samples: Minimum duration and minimum number of calls.

    Raises:
        DeployError: The duration or the number of samples is out of range.
    """
    if in_flight == 1:  # the current thread avoids the overhead of a pool
        return run_single_stream(
            call, batch=batch, seconds=seconds, samples=samples, clock=clock, progress=progress
        )
    require_valid_duration(seconds, samples)
    warm_up_start = clock.now_s()
    warm_up_ms = warm_up(clock.make_timer(call), clock)
    require_record_capacity(seconds, (clock.now_s() - warm_up_start) / len(warm_up_ms) / in_flight)
    ends: list[float] = []
    stage = f"measuring batch {batch}"
    stop, lock = threading.Event(), threading.Lock()
    start = clock.now_s()

    def stream() -> None:
        while not stop.is_set():
            call()
            with lock:
                ends.append(clock.now_s())
                elapsed, count = ends[-1] - start, len(ends)
            progress(stage, min(elapsed / seconds, count / samples, 1), 1)
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
        warm_up_ms=tuple(warm_up_ms),
        latency_ms=tuple(map(float, between)),
        seconds=max(ends) - start,
    )


def warm_up(sample: TimedBatch, clock: Clock) -> list[float]:
    """Run batches until the median of the latest window no longer falls; return their times, ms."""
    start = clock.now_s()
    samples = [sample() for _ in range(2 * WARM_UP_WINDOW)]
    while clock.now_s() - start < _MAX_WARM_UP_SECONDS:
        before, latest = samples[-2 * WARM_UP_WINDOW : -WARM_UP_WINDOW], samples[-WARM_UP_WINDOW:]
        if statistics.median(latest) >= _STEADY_RATIO * statistics.median(before):
            break
        samples += [sample() for _ in range(WARM_UP_WINDOW)]
    return samples


def require_record_capacity(seconds: float, each_s: float) -> None:
    """Raise an error now if a record would be full before the duration is over."""
    if seconds > MAX_SAMPLES * each_s:
        raise DeployError(
            f"In {seconds:g} s this engine would make {seconds / max(each_s, 1e-9):,.0f} samples, but a "
            "record "
            f"keeps {MAX_SAMPLES:,}.",
            code="too-many-samples",
            fix=f"use --seconds {max(MAX_SAMPLES * each_s / 2, 0.01):.2g}, or a larger --batch",
        )


def require_valid_duration(seconds: float, samples: int) -> None:
    """Raise an error if the duration or the number of samples is out of range."""
    if not 0 < seconds <= MAX_SECONDS:
        raise DeployError(
            f"--seconds must be above 0 and at most {MAX_SECONDS:g}, but is {seconds:g}.",
            code="invalid-duration",
            fix="use --seconds 5",
        )
    if not 1 <= samples <= MAX_SAMPLES:
        raise DeployError(
            f"--samples must be from 1 to {MAX_SAMPLES}, but is {samples}.",
            code="invalid-sample-count",
            fix="use --samples 1000",
        )
