"""A simulated clock."""

from collections.abc import Iterable

from deploykit.bench.scenarios import Clock


class FakeClock:
    """A clock, and a call that advances it by the next of the given latencies."""

    def __init__(self, latencies_ms: Iterable[float]) -> None:
        self.now_s = 0.0
        self.calls = 0
        self.sizes: list[int] = []
        self.clock = Clock(now_s=lambda: self.now_s, sleep_s=self._sleep, spin_s=0)
        self._latencies_ms = iter(latencies_ms)

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def call(self, images: int = 1) -> None:
        self.calls += 1
        self.sizes.append(images)
        self.now_s += next(self._latencies_ms) / 1000
