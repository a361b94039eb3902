"""Run jobs in threads before their results are needed, in order and with bounded memory."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# Decoding releases the interpreter lock. The work that holds the lock keeps no more threads than this busy.
_MAX_WORKERS = 8


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def worker_count() -> int:
    """Return the default number of threads: one per core, at most eight."""
    return min(available_cores(), _MAX_WORKERS)


def prefetch(
    jobs: Iterable[Callable[[], T]], *, window: int, threads: int | None = None
) -> Generator[Future[T], None, None]:
    """Yield the jobs' results in the order of the jobs, while threads work on the next ones.

    Threads start when the first result is requested. Closing the generator, or an exception in it, cancels
    the jobs that have not started and waits for those that have.

    Args:
        jobs: Iterated in the caller's thread, at most `window` jobs ahead of the results.
        window: Maximum number of results and unfinished jobs held at once, at least 1.
        threads: Number of threads; default worker_count().
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
