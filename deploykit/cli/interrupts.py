"""Ctrl-C and SIGTERM: end what is being done once, tidily, however many there are."""

import signal
import time
from types import FrameType

_TIDYING_SECONDS = 3.0


def prepare_interrupts() -> None:
    """SIGTERM ends it as Ctrl-C does, so that temporary files go; several at once end it once."""
    signal.signal(signal.SIGTERM, _Interrupts())
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background
        signal.signal(signal.SIGINT, _Interrupts())


class _Interrupts:
    """Raises KeyboardInterrupt, but not again while what that ends is being tidied up."""

    def __init__(self) -> None:
        self._again_s = 0.0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if now_s >= self._again_s:
            self._again_s = now_s + _TIDYING_SECONDS
            raise KeyboardInterrupt


def ignore_interrupts() -> None:
    """What is left is to end: Python itself would let the next one kill it then."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
