"""What is timed of a call: all of it, the part on the GPU, or the part on the host."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy.typing as npt

from deploykit.bench.record import Scope
from deploykit.bench.scenarios import SYSTEM_CLOCK, Clock, TimedBatch
from deploykit.runtime import Engine
from deploykit.runtime.tensorrt.timing import CallTimer


@contextmanager
def open_sampler(
    engine: Engine, images: npt.NDArray[Any], scope: Scope, *, clock: Clock = SYSTEM_CLOCK
) -> Iterator[TimedBatch]:
    """Return a function that runs one call and returns the time of its scope, ms.

    The function is valid inside the with block.

    Raises:
        DeployError: The engine does not take these images, or cannot time that part.
    """
    if scope == "end-to-end":
        yield clock.make_timer(lambda: engine(images))
        return
    with engine.time_calls(images) as call:
        yield call.device_ms if scope == "device" else partial(_host_ms, call, clock)


def _host_ms(call: CallTimer, clock: Clock) -> float:
    """Return the time to enqueue a call; the GPU is idle for the next one, since a full queue would block."""
    taken_ms = clock.time_ms(call.enqueue)
    call.wait()
    return taken_ms
