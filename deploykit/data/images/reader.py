"""What every source of images does: a folder, an archive, a generator."""

from collections.abc import Callable, Generator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deploykit.data.preprocessing import Preprocessing
from deploykit.util.array_types import Labels

Pixels = npt.NDArray[np.uint8]
"""One image, (side, side, 3)."""

DecodeJob = Callable[[], Pixels]
"""Makes one image. Raises DeployError where it can't be read."""


class ImageReader(Protocol):
    """Images in a fixed order."""

    def __len__(self) -> int: ...

    @property
    def names(self) -> Sequence[str]:
        """What each is called."""
        ...

    def select(self, indices: Sequence[int]) -> "ImageReader":
        """Those alone; indices ascend."""
        ...

    def digest(self) -> str:
        """SHA-256, hexadecimal, of what says which images these are."""
        ...

    def decode_jobs(self, preprocessing: Preprocessing) -> Generator[DecodeJob, None, None]:
        """A job an image, in order. Threads may do several at once; one thread at a time asks for them."""
        ...


OpenedImages = tuple[ImageReader, Labels | None, tuple[str, ...] | None]
"""All the images of a source, their labels and the classes' names, None where it doesn't have them."""
