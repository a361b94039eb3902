"""How a server puts requests together: from the engine's profiles, and from a latency to hold."""

from collections.abc import Callable
from dataclasses import dataclass

from deploykit.engine.manifest import Manifest
from deploykit.engine.shapes import tightest
from deploykit.errors import DeployError

# Of a latency that is to be held, where nobody knows what a batch takes.
_UNMEASURED_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """What requests wait for.

    Attributes:
        max_batch: images at once, at most.
        preferred: batches the engine is tuned for, ascending; run as soon as they are full.
        delay_us: how long an image waits for others; 0 to take what is there.
        max_queue: requests that may wait, further ones are refused; None for any number.
        dynamic: whether requests are put together at all.
    """

    max_batch: int
    preferred: tuple[int, ...]
    delay_us: int
    max_queue: int | None = None
    dynamic: bool = True


def batching_of(
    manifest: Manifest,
    *,
    max_latency_ms: float | None = None,
    batch_ms: Callable[[int], float] | None = None,
    max_queue: int | None = None,
    dynamic: bool = True,
) -> Batching:
    """What an engine's profiles and a latency to hold make of it.

    An image waits for the batch before its own, then its own runs: what two batches leave of the latency
    it may wait for others, but no longer than a batch takes, in which a busy server gathers the next one
    anyway. Batches of which two take longer than the latency are not waited for.

    Args:
        max_latency_ms: from arrival to answer; None to wait for nobody.
        batch_ms: what a batch of a size takes; None where the engine can't be timed here.

    Raises:
        DeployError: a latency or a queue that can't be.
    """
    if max_latency_ms is not None and not 0 < max_latency_ms < float("inf"):
        raise DeployError(
            f"A latency of {max_latency_ms:g} ms can't be held.", fix="give --max-latency 10ms, say"
        )
    if max_queue is not None and max_queue < 1:
        raise DeployError(f"A queue of {max_queue} holds no request.", fix="give --max-queue 1024, say")
    max_batch = max(each.max for each in manifest.batches)
    tuned = sorted({each.opt for each in manifest.batches if each.opt > 1})
    delay_ms = 0.0
    if max_latency_ms is not None and batch_ms is None:
        delay_ms = _UNMEASURED_SHARE * max_latency_ms
    elif max_latency_ms is not None and batch_ms is not None:
        took = {size: batch_ms(size) for size in tuned}
        tuned = [size for size in tuned if 2 * took[size] <= max_latency_ms]
        delay_ms = min(took[tuned[-1]], max_latency_ms - 2 * took[tuned[-1]]) if tuned else 0.0
    is_dynamic = dynamic and max_batch > 1
    return Batching(
        max_batch=max_batch,
        preferred=tuple(tuned) if is_dynamic else (),
        delay_us=round(1000 * delay_ms) if is_dynamic else 0,
        max_queue=max_queue,
        dynamic=is_dynamic,
    )


def missing_batch(manifest: Manifest, max_batch: int) -> int | None:
    """The smallest batch up to max_batch that no profile holds; None where all are."""
    sizes = range(1, max_batch + 1)
    return next((size for size in sizes if tightest(manifest.batches, size) is None), None)
