"""How a server combines requests into batches, from an engine's profiles and a latency target."""

from collections.abc import Callable
from dataclasses import dataclass

from deploykit.engine.manifest import EngineManifest
from deploykit.engine.shapes import tightest_profile
from deploykit.util.errors import DeployError

# Share of the latency target that an image may wait where batches can't be timed.
_UNMEASURED_SHARE = 0.25
# model_config.proto: max_queue_size is a uint32, max_queue_delay_microseconds a uint64.
_MAX_QUEUE, _MAX_LATENCY_MS = 2**32 - 1, 2**64 / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """Batching settings of a model.

    Attributes:
        max_batch: Most images in a batch.
        preferred: Batch sizes the engine is tuned for, ascending; a batch of one of them runs at once.
        delay_us: How long an image may wait for others; 0 to take what has arrived.
        max_queue: Most requests that may wait, further ones are refused; None for any number.
        dynamic: Whether requests are combined at all.
    """

    max_batch: int
    preferred: tuple[int, ...]
    delay_us: int
    max_queue: int | None = None
    dynamic: bool = True


def choose_batching(
    manifest: EngineManifest,
    *,
    max_latency_ms: float | None = None,
    batch_ms: Callable[[int], float] | None = None,
    max_queue: int | None = None,
    dynamic: bool = True,
) -> Batching:
    """Choose batching settings from an engine's profiles and a latency target.

    An image waits for the batch before its own, and then its own batch runs. What two batches leave of the
    latency may go into waiting for more images, but no longer than one batch takes: a busy server gathers the
    next batch during that time anyway. Batch sizes of which two take longer than the target are not
    preferred.

    Args:
        max_latency_ms: Target from arrival to answer; None to never wait for other requests.
        batch_ms: Returns the latency of a batch of a given size; None where the engine can't be timed here.
        max_queue: Most requests that may wait; None for any number.
        dynamic: Whether to combine requests.

    Raises:
        DeployError: The latency or the queue is out of range, or given though requests are never combined.
    """
    _require_in_range(max_latency_ms, max_queue)
    max_batch = max(each.max for each in manifest.batches)
    is_dynamic = dynamic and max_batch > 1
    if not is_dynamic:
        _require_no_batching_options(max_latency_ms, max_queue, dynamic=dynamic)
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


def _require_in_range(max_latency_ms: float | None, max_queue: int | None) -> None:
    if max_latency_ms is not None and not 0 < max_latency_ms < _MAX_LATENCY_MS:
        raise DeployError(
            f"A latency target of {max_latency_ms:g} ms is out of range.",
            code="invalid-latency-target",
            fix="give a positive latency, for example --max-latency 10ms",
        )
    if max_queue is not None and not 1 <= max_queue <= _MAX_QUEUE:
        raise DeployError(
            f"--max-queue is {max_queue}, but must be between 1 and {_MAX_QUEUE}.",
            code="invalid-queue-size",
            fix="give a number in that range, for example --max-queue 1024",
        )


def _require_no_batching_options(
    max_latency_ms: float | None, max_queue: int | None, *, dynamic: bool
) -> None:
    if (max_latency_ms, max_queue) == (None, None):
        return
    option = "--max-queue" if max_latency_ms is None else "--max-latency"
    if dynamic:
        reason, alternative = "the engine takes one image at a time", "build the engine with --batch 1,8,64"
    else:
        reason, alternative = "requests are not combined into batches", "leave out --no-batching"
    raise DeployError(
        f"{option} would have no effect: {reason}.",
        code="option-not-applicable",
        fix=f"leave out {option}, or {alternative}",
    )


def first_unsupported_batch(manifest: EngineManifest, max_batch: int) -> int | None:
    """Return the smallest batch size up to max_batch that no profile covers; None if all are covered."""
    sizes = range(1, max_batch + 1)
    return next((size for size in sizes if tightest_profile(manifest.batches, size) is None), None)
