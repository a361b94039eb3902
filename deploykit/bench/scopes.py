"""What is timed of a call: all of it, what the GPU takes, or what the host does."""

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
    """What runs a call with these images and times that part of it, as long as the with block lasts.

    Raises:
        DeployError: the engine doesn't take these images, or tells no such part.
    """
    if scope == "end-to-end":
        yield clock.timing(lambda: engine(images))
        return
    with engine.time_calls(images) as call:
        yield call.device_ms if scope == "device" else partial(_host_ms, call, clock)


def _host_ms(call: CallTimer, clock: Clock) -> float:
    """The GPU is idle again by the next: a queue that is full would be waited for."""
    taken_ms = clock.time_ms(call.enqueue)
    call.wait()
    return taken_ms
