"""Work done by threads before its results are asked for, in order and within bounds."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_MOST_WORKERS = 8  # decoding leaves Python's lock; what stays under it keeps no more threads busy


def available_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def worker_count() -> int:
    """One a core, and no more than are of use."""
    return min(available_cores(), _MOST_WORKERS)


def prefetch(
    jobs: Iterable[Callable[[], T]], *, window: int, threads: int | None = None
) -> Generator[Future[T], None, None]:
    """The jobs' results, each finished or failed or about to be, in the order of the jobs.

    Threads start with the first one asked for. Closing the generator, or an exception in it, drops what
    has not begun and waits for what has.

    Args:
        jobs: asked for in the caller's thread, at most window of them before their results are taken.
        window: results and unfinished jobs held at once, at least 1.
        threads: default workers().
    """
    pool = ThreadPoolExecutor(threads or worker_count(), thread_name_prefix="deploykit-prefetch")
    pending: deque[Future[T]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(job))
            if len(pending) >= window:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
