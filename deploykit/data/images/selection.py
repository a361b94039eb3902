"""The images that were drawn, and the network inputs they make."""

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
"""Told of each image that is left out, and why."""


def report_each_once(on_skipped: OnSkipped) -> OnSkipped:
    """Tells of each image once, however often it is met."""
    told: set[str] = set()

    def tell(error: DeployError) -> None:
        if error.problem not in told:
            told.add(error.problem)
            on_skipped(error)

    return tell


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageBatch:
    """Images as the network takes them.

    Attributes:
        inputs: (n, 3, side, side) float32, n at least 1.
        indices: (n,) int64, ascending: places of these images among those drawn, and so in labels.
    """

    inputs: npt.NDArray[np.float32]
    indices: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)  # no slots, for the digest that is computed once
class Images:
    """Images that were drawn, none of them decoded yet.

    Attributes:
        source: what the user named: a path, or `generated`.
        preprocessing: of model and user, and where source is a manifest, of that.
        asked: how many were wanted.
        available: how many there were to draw from.
        seed: of a random draw; None for an even one.
        labels: (count,) int64, the class of each; None where the source doesn't say.
        classes: their names, where the source has them; longer than any label.
        is_subset: Whether these are some of the images that were drawn.
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
        """How many were drawn; fewer than asked where there are no more."""
        return len(self.reader)

    @cached_property
    def sha256(self) -> str:
        """Digest of which images these are: reads every file, the first time.

        Raises:
            DeployError: an archive can't be read any more.
        """
        return self.reader.digest()

    def require_classes(self, classes: int, model: str | Path) -> None:
        """Fails where the labels are not those of a model with so many outputs, as far as can be seen.

        Raises:
            DeployError: they are not.
        """
        if self.labels is None:
            return
        largest = int(self.labels.max(initial=0))
        if largest >= classes or (self.classes is not None and len(self.classes) != classes):
            found = f"{len(self.classes)} classes" if self.classes else f"labels up to {largest}"
            raise DeployError(
                f"{self.source} has {found}, {model} has {classes} classes.",
                code="class-count-mismatch",
                fix="number the classes as the model's outputs are: one folder for each, empty ones too",
            )

    def subset(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> "Images":
        """Those images alone, each once, in the order they have here.

        Raises:
            IndexError: an index is negative, or count or more.
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
        """Network inputs, decoded by threads ahead of being asked for, in order.

        Closing the generator stops the threads. Memory goes with size, not with count.

        Args:
            size: images a batch; the last one has what is left.
            start: begin with this one of the images.
            on_skipped: Called with the error of each unreadable image, which is then left out; None
                raises that error.

        Raises:
            DeployError: an image can't be read, or none of them can.
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
                fix="give images that open in a viewer",
            )

    def _decoded(self, size: int, start: int, on_skipped: OnSkipped | None) -> Iterator[tuple[int, Pixels]]:
        jobs = self.reader.select(range(start, self.count)).decode_jobs(self.preprocessing)
        # While the caller works on one batch, the threads make the whole next one.
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
