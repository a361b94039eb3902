"""The images that were drawn, and the network inputs made from them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploykit.data.images.reader import ImageReader, Pixels
from deploykit.data.preprocessing import Preprocessing
from deploykit.util.array_types import Labels
from deploykit.util.errors import DeployError
from deploykit.util.prefetch import prefetch, worker_count

OnSkipped = Callable[[DeployError], None]
"""Receives the error of each image that is skipped."""


def report_each_once(on_skipped: OnSkipped) -> OnSkipped:
    """Wrap a callback so that it receives each image only once."""
    reported: set[str] = set()

    def report(error: DeployError) -> None:
        if error.problem not in reported:
            reported.add(error.problem)
            on_skipped(error)

    return report


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageBatch:
    """Network inputs.

    Attributes:
        inputs: (n, 3, side, side), n at least 1.
        indices: (n,), ascending: indices of these images among those drawn, and thus into the labels.
    """

    inputs: npt.NDArray[np.float32]
    indices: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)  # no slots: cached_property needs a __dict__
class Images:
    """Images that were drawn but not yet decoded.

    Attributes:
        source: What the user named: a path, or `generated`.
        preprocessing: The model's preprocessing with the changes of the user and the manifest.
        requested: Number of images requested.
        available: Number of images to draw from.
        reader: Reads the images that were drawn.
        seed: Seed of a random draw; None for evenly spaced images.
        labels: The class of each image, (count,); None if the source has no labels.
        classes: The names of the classes, if the source has them.
        is_subset: Whether this is a subset of the images that were drawn.
    """

    source: str
    preprocessing: Preprocessing
    requested: int
    available: int
    reader: ImageReader
    seed: int | None = None
    labels: Labels | None = None
    classes: tuple[str, ...] | None = None
    is_subset: bool = False

    @property
    def count(self) -> int:
        """Number of images drawn, at most `requested`."""
        return len(self.reader)

    @cached_property
    def sha256(self) -> str:
        """Digest that identifies the images. The first access reads every file.

        Raises:
            DeployError: An archive can no longer be read.
        """
        return self.reader.digest()

    def require_classes(self, classes: int, model: str | Path) -> None:
        """Check that the labels fit a model's number of classes, as far as that is known.

        Args:
            classes: Number of the model's outputs.
            model: The model's name, for the error.

        Raises:
            DeployError: They do not.
        """
        if self.labels is None:
            return
        largest = int(self.labels.max(initial=0))
        if largest >= classes or (self.classes is not None and len(self.classes) != classes):
            found = f"{len(self.classes)} classes" if self.classes else f"labels up to {largest}"
            raise DeployError(
                f"{self.source} has {found}; {model} has {classes} classes.",
                code="class-count-mismatch",
                fix="number the classes like the model's outputs: one folder per class, even if it is empty",
            )

    def subset(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> "Images":
        """Return these images only, each once, in their present order.

        Raises:
            IndexError: An index is negative, or not less than count.
        """
        kept = np.unique(np.asarray(indices, np.int64))
        if kept.size and not 0 <= kept[0] <= kept[-1] < self.count:
            raise IndexError(f"indices from {kept[0]} to {kept[-1]} of {self.count} images")
        return replace(
            self,
            reader=self.reader.select(kept.tolist()),
            labels=None if self.labels is None else self.labels[kept],
            requested=len(kept),
            is_subset=True,
        )

    def batches(
        self, size: int, *, start: int = 0, on_skipped: OnSkipped | None = None
    ) -> Iterator[ImageBatch]:
        """Yield network inputs in order, while threads decode the next ones.

        Closing the generator stops the threads. Memory grows with size, not with count.

        Args:
            size: Images per batch; the last batch may be smaller.
            start: Index of the first image.
            on_skipped: Called with the error of each unreadable image, which is then left out; None
                raises that error.

        Raises:
            DeployError: An image can't be read and on_skipped is None, or no image can be read.
        """
        if size < 1 or start < 0:
            raise ValueError(f"batches of {size} from {start}")
        indices: list[int] = []
        pixels: list[Pixels] = []
        readable = False
        for index, image in self._decoded(size, start, on_skipped):
            readable = True
            indices.append(index)
            pixels.append(image)
            if len(pixels) == size:
                yield self._batch(pixels, indices)
                indices, pixels = [], []
        if pixels:
            yield self._batch(pixels, indices)
        if not readable and start == 0 and self.count:
            raise DeployError(
                f"None of the {self.count} images of {self.source} can be read.",
                code="images-unreadable",
                fix="check that the images open in a viewer",
            )

    def _decoded(self, size: int, start: int, on_skipped: OnSkipped | None) -> Iterator[tuple[int, Pixels]]:
        jobs = self.reader.select(range(start, self.count)).decode_jobs(self.preprocessing)
        # While the caller works on one batch, the threads prepare the whole next one.
        results = prefetch(jobs, window=size + 2 * worker_count())
        with contextlib.closing(jobs), contextlib.closing(results):
            for index, result in enumerate(results, start):
                try:
                    image = result.result()
                except DeployError as error:
                    if on_skipped is None:
                        raise
                    on_skipped(error)
                    continue
                yield index, image

    def _batch(self, pixels: list[Pixels], indices: list[int]) -> ImageBatch:
        return ImageBatch(
            inputs=self.preprocessing.normalize(np.stack(pixels)), indices=np.array(indices, np.int64)
        )
