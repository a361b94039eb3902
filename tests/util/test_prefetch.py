import threading
import time
from collections.abc import Callable

import pytest

from deploykit.util.prefetch import prefetch, worker_count


def slow(value: int, seconds: float) -> Callable[[], int]:
    def job() -> int:
        time.sleep(seconds)
        return value

    return job


def test_results_are_in_the_order_of_the_jobs(prefetch_threads):
    jobs = (slow(number, 0.02 if number % 2 == 0 else 0) for number in range(12))
    assert [future.result() for future in prefetch(jobs, window=5)] == list(range(12))
    assert prefetch_threads() == []


@pytest.mark.parametrize("window", [1, 3, 100])
def test_at_most_a_window_of_jobs_is_requested_ahead(window):
    asked, taken, most = 0, 0, 0

    def jobs():
        nonlocal asked, most
        for number in range(30):
            asked += 1
            most = max(most, asked - taken)
            yield slow(number, 0)

    for future in prefetch(jobs(), window=window):
        future.result()
        taken += 1
    assert most <= window + 1  # the one just yielded counts as taken only now
    assert taken == 30


def test_jobs_run_while_no_result_is_requested():
    done = [threading.Event() for _ in range(4)]
    results = prefetch((event.set for event in done), window=4)
    next(results)
    assert all(event.wait(10) for event in done)
    results.close()


def test_several_jobs_run_at_once():
    meeting = threading.Barrier(2, timeout=10)
    jobs = [meeting.wait, meeting.wait]
    assert sorted(future.result() for future in prefetch(jobs, window=2, threads=2)) == [0, 1]


def test_a_failing_job_fails_at_its_position():
    def fail() -> int:
        raise ValueError("the third")

    results = prefetch([slow(0, 0), slow(1, 0), fail, slow(3, 0)], window=4)
    assert [next(results).result(), next(results).result()] == [0, 1]
    failed = next(results)
    with pytest.raises(ValueError, match="the third"):
        failed.result()
    assert next(results).result() == 3
    results.close()


def test_an_exception_from_the_jobs_iterator_reaches_the_caller(prefetch_threads):
    def jobs():
        yield slow(0, 0)
        raise ValueError("no more jobs")

    with pytest.raises(ValueError, match="no more jobs"):
        list(prefetch(jobs(), window=5))
    assert prefetch_threads() == []


def test_closing_cancels_pending_jobs_and_ends_the_threads(prefetch_threads):
    ran = []
    jobs = [slow(0, 0), *[lambda: (time.sleep(0.05), ran.append(1)) for _ in range(100)]]
    results = prefetch(jobs, window=101)
    next(results)
    results.close()
    assert prefetch_threads() == []
    so_far = len(ran)
    assert so_far <= 2 * worker_count()
    time.sleep(0.2)
    assert len(ran) == so_far


def test_no_jobs_give_no_results(prefetch_threads):
    assert list(prefetch([], window=3)) == []
    assert prefetch_threads() == []
