"""Streams images through a model and counts its activations."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.ahead import ahead, cores, workers
from deploykit.errors import DeployError
from deploykit.images.alike import Likeness
from deploykit.images.source import Batch, Images
from deploykit.quantize.checkpoint import Checkpoint
from deploykit.quantize.ranges import Ranges
from deploykit.quantize.statistics import Observed, Statistics, observe
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


def shares(side_px: int) -> tuple[int, int, int]:
    """How batch_size images are run by all cores: batches at once, images in each, cores for each.

    A batch a core takes less time than one after the other on all cores: what numpy counts of one is
    counted while others run, and no core waits for another at the end of each layer.
    """
    at_once = min(workers(), batch_size(side_px))
    return at_once, batch_size(side_px) // at_once, cores() // at_once


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
    counter, likeness = _Counter(ranges, first), Likeness()
    at_once, size, threads = shares(images.preprocessing.side_px)
    observer = _Observer(model, ranges.statistics, threads=threads)
    jobs = _jobs(observer, likeness, images.batches(size, start=first, skipped=skipped))
    saved_s = time.monotonic()
    try:
        for observation in ahead(jobs, window=at_once + 1, threads=at_once):
            counter.count(observation.result())
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


def _jobs(
    observer: "_Observer", likeness: Likeness, batches: Iterable[Batch]
) -> Iterator[Callable[[], "_Observation"]]:
    for batch in batches:
        likeness.add(batch.inputs)
        yield partial(observer.observe, batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Observation:
    """What is counted of a batch.

    Attributes:
        images: how many they are.
        end: position behind the last of them; images left out may stand before it.
        tensors: of each by name.
    """

    images: int
    end: int
    tensors: dict[str, Observed]


class _Observer:
    """Runs the model; threads may share it."""

    def __init__(self, model: "ModelProto", names: Iterable[str], *, threads: int) -> None:
        from onnx import helper

        graph = type(model)()
        graph.CopyFrom(model)
        (self._input,) = (value.name for value in graph.graph.input)
        self._tensors = [name for name in names if name != self._input]
        already = {value.name for value in graph.graph.output}
        graph.graph.output.extend(
            helper.make_empty_tensor_value_info(name) for name in self._tensors if name not in already
        )
        self._session = cpu_session(graph.SerializeToString(), threads=threads)

    def observe(self, batch: Batch) -> _Observation:
        feed = {self._input: batch.inputs}
        outputs = self._session.run(self._tensors, feed) if self._tensors else []
        values = {**feed, **dict(zip(self._tensors, outputs, strict=True))}
        return _Observation(
            images=len(batch.inputs),
            end=int(batch.indices[-1]) + 1,
            tensors={name: observe(each) for name, each in values.items()},
        )


class _Counter:
    """Counts what was observed.

    Attributes:
        done: how many of the images are counted, and the ranges so far. It is replaced as a whole, so that
            whoever interrupts finds a batch counted in all tensors or in none.
    """

    def __init__(self, ranges: Ranges, position: int) -> None:
        self.done = position, ranges

    def count(self, batch: _Observation) -> None:
        _, ranges = self.done
        statistics = {
            name: _counted(before, name, batch.tensors[name]) for name, before in ranges.statistics.items()
        }
        self.done = batch.end, replace(ranges, images=ranges.images + batch.images, statistics=statistics)


def _counted(before: Statistics, name: str, observed: Observed) -> Statistics:
    statistics = before.copy()
    try:
        statistics.add(observed)
    except ValueError as error:
        raise DeployError(
            f"The activations {name} are not finite on these images.",
            fix="look for NaN or Inf in the weights",
        ) from error
    return statistics
