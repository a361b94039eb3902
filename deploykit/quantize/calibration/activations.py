"""Streams images through a model and counts its activations."""

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

if TYPE_CHECKING:
    from onnx import ModelProto

_SAVE_EVERY_S = 10.0


def measure_activations(
    model: "ModelProto",
    images: Images,
    empty: Ranges,
    *,
    checkpoint: CalibrationCheckpoint | None,
    note: Callable[[str], None],
    progress: Callable[[int, int], None],
    on_skipped: OnSkipped | None,
) -> Ranges:
    """The ranges with the statistics of all images.

    Args:
        model: FP32.
        empty: names the tensors and the model, its statistics without a count.
        checkpoint: goes on from there, and keeps there what is done; None for neither.
        progress: called with the number of images done, and of all.

    Raises:
        DeployError: an unreadable image, or activations that are not finite.
    """
    first, ranges = _resume(images, empty, checkpoint, note)
    counter, diversity = _Counter(ranges, first), DiversityCheck()
    at_once, size, threads = split_cores(images.preprocessing.side_px)
    observer = ActivationObserver(model, ranges.statistics, threads=threads)
    jobs = _jobs(observer, diversity, images.batches(size, start=first, on_skipped=on_skipped))
    saved_s = time.monotonic()
    try:
        with contextlib.closing(prefetch(jobs, window=at_once + 1, threads=at_once)) as observations:
            for observation in observations:
                counter.count(observation.result())
                progress(counter.done[0], images.count)
                if checkpoint and time.monotonic() - saved_s > _SAVE_EVERY_S:
                    checkpoint.save(images, *counter.done)
                    saved_s = time.monotonic()
        if counter.done[0] < images.count:  # the last ones were left out
            counter.done = images.count, counter.done[1]
            progress(images.count, images.count)
    except KeyboardInterrupt:
        position, ranges = counter.done
        if checkpoint and position:
            checkpoint.save(images, position, ranges)
            note(f"Stopped after image {position} of {images.count}; the same command goes on from there.")
        raise
    if first == 0 and (sentence := diversity.warning()):
        note(sentence)
    return counter.done[1]


def _resume(
    images: Images, empty: Ranges, checkpoint: CalibrationCheckpoint | None, note: Callable[[str], None]
) -> tuple[int, Ranges]:
    found = checkpoint.load(images, empty.onnx_sha256) if checkpoint else None
    if found is None or found[1].statistics.keys() != empty.statistics.keys():
        if checkpoint and checkpoint.path.exists():
            note(f"{checkpoint.path} is of another calibration: starting anew.")
        return 0, empty
    position, ranges = found
    note(f"Going on from image {position} of {images.count}, where the last calibration was stopped.")
    return position, replace(empty, images=ranges.images, statistics=ranges.statistics)


def _jobs(
    observer: ActivationObserver, diversity: DiversityCheck, batches: Iterable[ImageBatch]
) -> Iterator[Callable[[], BatchObservation]]:
    for batch in batches:
        diversity.add(batch.inputs)
        yield partial(observer.observe, batch)


class _Counter:
    """Counts what was observed.

    Attributes:
        done: how many of the images are counted, and the ranges so far. It is replaced as a whole, so that
            whoever interrupts finds a batch counted in all tensors or in none.
    """

    def __init__(self, ranges: Ranges, position: int) -> None:
        self.done = position, ranges

    def count(self, batch: BatchObservation) -> None:
        _, ranges = self.done
        statistics = {
            name: _counted(before, name, batch.tensors[name]) for name, before in ranges.statistics.items()
        }
        self.done = batch.end, replace(ranges, images=ranges.images + batch.images, statistics=statistics)


def _counted(before: TensorStatistics, name: str, observed: BatchSample) -> TensorStatistics:
    statistics = before.copy()
    try:
        statistics.add(observed)
    except ValueError as error:
        raise DeployError(
            f"The activations {name} are not finite on these images.",
            code="activations-not-finite",
            fix="look for NaN or Inf in the weights",
        ) from error
    return statistics
