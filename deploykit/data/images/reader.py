"""The interface that every source of images implements: a folder, an archive, generated images."""

from collections.abc import Callable, Generator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deploykit.data.preprocessing import Preprocessing
from deploykit.util.array_types import Labels

Pixels = npt.NDArray[np.uint8]
"""One image, (side, side, 3)."""

DecodeJob = Callable[[], Pixels]
"""Decodes one image. Raises DeployError if the image can't be read."""


class ImageReader(Protocol):
    """Images in a fixed order."""

    def __len__(self) -> int: ...

    @property
    def names(self) -> Sequence[str]:
        """The name of each image."""
        ...

    def select(self, indices: Sequence[int]) -> "ImageReader":
        """Return a reader of these images only; indices are ascending."""
        ...

    def digest(self) -> str:
        """Return the SHA-256, hexadecimal, that identifies these images."""
        ...

    def decode_jobs(self, preprocessing: Preprocessing) -> Generator[DecodeJob, None, None]:
        """Yield one job per image, in order.

        Jobs may run in parallel threads, but only one thread may iterate.
        """
        ...


OpenedImages = tuple[ImageReader, Labels | None, tuple[str, ...] | None]
"""All the images of a source, their labels, and the names of the classes; None where the source has none."""
