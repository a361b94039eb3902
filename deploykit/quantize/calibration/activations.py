"""Stream images through a model and count its activations."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from deploykit.data.images.diversity import DiversityCheck
from deploykit.data.images.selection import ImageBatch, Images, OnSkipped
from deploykit.quantize.calibration.checkpoint import CalibrationCheckpoint
from deploykit.quantize.calibration.observer import ActivationObserver, BatchObservation, split_cores
from deploykit.quantize.calibration.ranges import Ranges
from deploykit.quantize.calibration.tensor_statistics import BatchSample, TensorStatistics
from deploykit.util.errors import DeployError
from deploykit.util.prefetch import prefetch
from deploykit.util.progress import Note, Progress

if TYPE_CHECKING:
    from onnx import ModelProto

_SAVE_EVERY_S = 10.0


def measure_activations(
    model: "ModelProto",
    images: Images,
    empty: Ranges,
    *,
    checkpoint: CalibrationCheckpoint | None,
    note: Note,
    progress: Progress,
    on_skipped: OnSkipped | None,
) -> Ranges:
    """Return ranges with the statistics of all images.

    Args:
        model: The FP32 model.
        empty: Names the model and its tensors; its statistics are empty.
        checkpoint: Continues from it, and saves progress to it; None does neither.
        on_skipped: Called for each unreadable image, which is then skipped; None raises instead.

    Raises:
        DeployError: An image is unreadable, or an activation is not finite.
    """
    first, ranges = _resume(images, empty, checkpoint, note)
    counter, diversity = _Counter(ranges, first), DiversityCheck()
    at_once, size, threads = split_cores(images.preprocessing.side_px)
    observer = ActivationObserver(model, ranges.statistics, threads=threads)
    jobs = _observation_jobs(observer, diversity, images.batches(size, start=first, on_skipped=on_skipped))
    saved_s = time.monotonic()
    try:
        with contextlib.closing(prefetch(jobs, window=at_once + 1, threads=at_once)) as observations:
            for observation in observations:
                counter.add(observation.result())
                progress("calibrating", counter.state[0], images.count)
                if checkpoint and time.monotonic() - saved_s > _SAVE_EVERY_S:
                    checkpoint.save(images, *counter.state)
                    saved_s = time.monotonic()
        if counter.state[0] < images.count:  # the last images were skipped
            counter.state = images.count, counter.state[1]
            progress("calibrating", images.count, images.count)
    except KeyboardInterrupt:
        position, ranges = counter.state
        if checkpoint and position:
            checkpoint.save(images, position, ranges)
            note(f"Stopped after image {position} of {images.count}; run the same command to continue.")
        raise
    if first == 0 and (warning := diversity.warning()):
        note(warning)
    return counter.state[1]


def _resume(
    images: Images, empty: Ranges, checkpoint: CalibrationCheckpoint | None, note: Note
) -> tuple[int, Ranges]:
    saved = checkpoint.load(images, empty.onnx_sha256) if checkpoint else None
    if saved is None or saved[1].statistics.keys() != empty.statistics.keys():
        if checkpoint and checkpoint.path.exists():
            note(f"{checkpoint.path} belongs to another calibration: starting from the first image.")
        return 0, empty
    position, ranges = saved
    note(f"Continuing from image {position} of {images.count}, where the last calibration stopped.")
    return position, replace(empty, images=ranges.images, statistics=ranges.statistics)


def _observation_jobs(
    observer: ActivationObserver, diversity: DiversityCheck, batches: Iterable[ImageBatch]
) -> Iterator[Callable[[], BatchObservation]]:
    for batch in batches:
        diversity.add(batch.inputs)
        yield partial(observer.observe, batch)


class _Counter:
    """Accumulates observations.

    Attributes:
        state: How many images are counted, and the ranges so far. The pair is replaced as one, so that an
            interrupt finds a batch counted in all tensors or in none.
    """

    def __init__(self, ranges: Ranges, position: int) -> None:
        self.state = position, ranges

    def add(self, batch: BatchObservation) -> None:
        """Count a batch in every tensor."""
        _, ranges = self.state
        statistics = {
            name: _add_sample(before, name, batch.tensors[name]) for name, before in ranges.statistics.items()
        }
        self.state = batch.end, replace(ranges, images=ranges.images + batch.images, statistics=statistics)


def _add_sample(before: TensorStatistics, name: str, sample: BatchSample) -> TensorStatistics:
    statistics = before.copy()
    try:
        statistics.add(sample)
    except ValueError as error:
        raise DeployError(
            f"Activation {name} is not finite on these images.",
            code="activations-not-finite",
            fix="check the weights for NaN and Inf",
        ) from error
    return statistics
