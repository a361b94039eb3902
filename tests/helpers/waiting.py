"""Wait for other threads and processes."""

import time
from collections.abc import Callable

PATIENCE_S = 120.0
"""A time limit far beyond what a busy machine needs; a test that reaches it fails."""


def wait_for(holds: Callable[[], object], *, every_s: float = 0.05) -> None:
    """Return once the condition holds.

    Raises:
        TimeoutError: The condition does not hold after PATIENCE_S.
    """
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(every_s)
