"""Waiting for what other threads and processes do."""

import time
from collections.abc import Callable

PATIENCE_S = 120.0
"""Far longer than anything here takes on a busy machine; a test that runs into it fails."""


def wait_for(holds: Callable[[], object], *, every_s: float = 0.05) -> None:
    """Comes back once that holds.

    Raises:
        TimeoutError: it still doesn't after PATIENCE_S.
    """
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(every_s)
