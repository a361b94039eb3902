"""Streams images through a model and counts its activations."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.errors import DeployError
from deploykit.images.alike import Likeness
from deploykit.images.source import Batch, Images
from deploykit.quantize.checkpoint import Checkpoint
from deploykit.quantize.ranges import Ranges
from deploykit.quantize.statistics import Statistics
from deploykit.sessions import cpu_session

if TYPE_CHECKING:
    from onnx import ModelProto

# Images to run at once, so that the activations of all of them, which are held together, take as much memory
# whatever the side.
_BATCH_PIXELS = 8 * 224**2
_LARGEST_BATCH = 32
_SAVE_EVERY_S = 10.0

Array = npt.NDArray[np.float32]
OnSkipped = Callable[[DeployError], None]


def batch_size(side_px: int) -> int:
    """Images to run at once, one at least."""
    return max(1, min(_LARGEST_BATCH, _BATCH_PIXELS // side_px**2))


def measure(
    model: "ModelProto",
    images: Images,
    empty: Ranges,
    *,
    checkpoint: Checkpoint | None,
    note: Callable[[str], None],
    progress: Callable[[int, int], None],
    skipped: OnSkipped | None,
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
    counter = _Counter(model, ranges, first)
    likeness = Likeness()
    saved_s = time.monotonic()
    try:
        for batch in images.batches(batch_size(images.preprocessing.side_px), start=first, skipped=skipped):
            counter.count(batch)
            likeness.add(batch.inputs)
            progress(counter.done[0], images.count)
            is_last = counter.done[0] == images.count  # what follows may take long too
            if checkpoint and (is_last or time.monotonic() - saved_s > _SAVE_EVERY_S):
                checkpoint.save(images, *counter.done)
                saved_s = time.monotonic()
    except KeyboardInterrupt:
        position, ranges = counter.done
        if checkpoint and position:
            checkpoint.save(images, position, ranges)
            note(f"Stopped after image {position} of {images.count}; the same command goes on from there.")
        raise
    if first == 0 and (sentence := likeness.sentence()):
        note(sentence)
    return counter.done[1]


def _resume(
    images: Images, empty: Ranges, checkpoint: Checkpoint | None, note: Callable[[str], None]
) -> tuple[int, Ranges]:
    found = checkpoint.load(images, empty.onnx_sha256) if checkpoint else None
    if found is None or found[1].statistics.keys() != empty.statistics.keys():
        return 0, empty
    position, ranges = found
    note(f"Going on from image {position} of {images.count}, where the last calibration was stopped.")
    return position, replace(empty, images=ranges.images, statistics=ranges.statistics)


class _Counter:
    """Runs batches and counts them.

    Attributes:
        done: how many of the images are counted, and the ranges so far. It is replaced as a whole, so that
            whoever interrupts finds a batch counted in all tensors or in none.
    """

    def __init__(self, model: "ModelProto", ranges: Ranges, position: int) -> None:
        from onnx import helper

        self.done = position, ranges
        graph = type(model)()
        graph.CopyFrom(model)
        (self._input,) = (value.name for value in graph.graph.input)
        self._tensors = [name for name in ranges.statistics if name != self._input]
        already = {value.name for value in graph.graph.output}
        graph.graph.output.extend(
            helper.make_empty_tensor_value_info(name) for name in self._tensors if name not in already
        )
        self._session = cpu_session(graph.SerializeToString())

    def count(self, batch: Batch) -> None:
        feed = {self._input: batch.inputs}
        outputs = self._session.run(self._tensors, feed) if self._tensors else []
        values = {**feed, **dict(zip(self._tensors, outputs, strict=True))}
        _, ranges = self.done
        statistics = {
            name: _counted(before, name, values[name]) for name, before in ranges.statistics.items()
        }
        images = ranges.images + len(batch.inputs)
        self.done = int(batch.indices[-1]) + 1, replace(ranges, images=images, statistics=statistics)


def _counted(before: Statistics, name: str, values: Array) -> Statistics:
    statistics = before.copy()
    try:
        statistics.add(values)
    except ValueError as error:
        raise DeployError(
            f"The activations {name} are not finite on these images.",
            fix="look for NaN or Inf in the weights",
        ) from error
    return statistics
