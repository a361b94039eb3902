"""Ctrl-C and SIGTERM: stop the command once and clean up, however many signals come."""

import signal
import time
from types import FrameType

_CLEAN_UP_SECONDS = 3.0


def prepare_interrupts() -> None:
    """Handle SIGTERM as Ctrl-C, so that temporary files are removed; several signals stop it once."""
    signal.signal(signal.SIGTERM, _Interrupts())
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # it is ignored in the background
        signal.signal(signal.SIGINT, _Interrupts())


class _Interrupts:
    """Raises KeyboardInterrupt, but not again while the first one is being cleaned up after."""

    def __init__(self) -> None:
        self._again_s = 0.0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if now_s >= self._again_s:
            self._again_s = now_s + _CLEAN_UP_SECONDS
            raise KeyboardInterrupt


def ignore_interrupts() -> None:
    """Ignore further signals while the process ends; Python's default would kill it with a traceback."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
