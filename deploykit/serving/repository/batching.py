"""How a server puts requests together: from the engine's profiles, and from a latency to hold."""

from collections.abc import Callable
from dataclasses import dataclass

from deploykit.engine.manifest import EngineManifest
from deploykit.engine.shapes import tightest_profile
from deploykit.util.errors import DeployError

# Of a latency that is to be held, where nobody knows what a batch takes.
_UNMEASURED_SHARE = 0.25
# model_config.proto's max_queue_size is a uint32, and its max_queue_delay_microseconds a uint64.
_LONGEST_QUEUE, _LONGEST_MS = 2**32 - 1, 2**64 / 1000


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
    manifest: EngineManifest,
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
        DeployError: a latency or a queue that can't be, or that is for requests which are never put together.
    """
    if max_latency_ms is not None and not 0 < max_latency_ms < _LONGEST_MS:
        raise DeployError(
            f"A latency of {max_latency_ms:g} ms can't be held.",
            code="invalid-latency-target",
            fix="give --max-latency 10ms, say",
        )
    if max_queue is not None and not 1 <= max_queue <= _LONGEST_QUEUE:
        raise DeployError(
            f"A queue of {max_queue} requests is not between 1 and {_LONGEST_QUEUE}.",
            code="invalid-queue-size",
            fix="give --max-queue 1024, say",
        )
    max_batch = max(each.max for each in manifest.batches)
    is_dynamic = dynamic and max_batch > 1
    if not is_dynamic and (max_latency_ms, max_queue) != (None, None):
        option = "--max-queue" if max_latency_ms is None else "--max-latency"
        if dynamic:
            why, way = "the engine takes one image at once", "build the engine with --batch 1,8,64"
        else:
            why, way = "requests are not put together", "leave out --no-batching"
        raise DeployError(
            f"{option} would do nothing: {why}.",
            code="option-not-applicable",
            fix=f"leave out {option}, or {way}",
        )
    tuned = sorted({each.opt for each in manifest.batches if each.opt > 1})
    delay_ms = 0.0
    if max_latency_ms is not None and batch_ms is None:
        delay_ms = _UNMEASURED_SHARE * max_latency_ms
    elif max_latency_ms is not None and batch_ms is not None:
        took = {size: batch_ms(size) for size in tuned}
        tuned = [size for size in tuned if 2 * took[size] <= max_latency_ms]
        delay_ms = min(took[tuned[-1]], max_latency_ms - 2 * took[tuned[-1]]) if tuned else 0.0
    return Batching(
        max_batch=max_batch,
        preferred=tuple(tuned) if is_dynamic else (),
        delay_us=round(1000 * delay_ms) if is_dynamic else 0,
        max_queue=max_queue,
        dynamic=is_dynamic,
    )


def missing_batch(manifest: EngineManifest, max_batch: int) -> int | None:
    """The smallest batch up to max_batch that no profile holds; None where all are."""
    sizes = range(1, max_batch + 1)
    return next((size for size in sizes if tightest_profile(manifest.batches, size) is None), None)
