"""Whether the images calibrated on were too much alike to say anything of others."""

import zlib

import numpy as np
import numpy.typing as npt

# Root mean square of what separates two normalized inputs; with ImageNet's statistics 6 of 255 gray levels.
# Any two of 48 photographs are 0.9 or more apart, and each from itself at JPEG quality 85 less than 0.1.
_ALIKE = 0.1
_MOSTLY = 2  # one distinct image in so many is too few


class DiversityCheck:
    """Is shown the batches as they go by, and asked at the end.

    It keeps one image, and a number for every other.
    """

    def __init__(self) -> None:
        self._first: npt.NDArray[np.float32] | None = None
        self._largest_rms = 0.0
        self._count = 0
        self._distinct: set[int] = set()

    def add(self, inputs: npt.NDArray[np.float32]) -> None:
        """Inputs of a batch, (n, 3, side, side)."""
        if self._first is None:
            self._first = inputs[0].copy()
        for image in inputs:
            self._distinct.add(zlib.crc32(np.ascontiguousarray(image).data))
            if self._largest_rms < _ALIKE:
                self._largest_rms = max(self._largest_rms, _rms(image - self._first))
        self._count += len(inputs)

    def warning(self) -> str | None:
        """What the user should know; None where the images differ as they should, or there is only one."""
        distinct = len(self._distinct)
        if self._count < 2:
            return None
        if distinct == 1:
            return f"All {self._count} images are the same: the ranges are of that one."
        if self._largest_rms < _ALIKE:
            return f"The {self._count} images hardly differ: the ranges are good for images like them alone."
        if distinct * _MOSTLY <= self._count:
            return f"Only {distinct} of the {self._count} images are different ones."
        return None


def _rms(difference: npt.NDArray[np.float32]) -> float:
    flat = difference.ravel()
    return float(np.sqrt(np.dot(flat, flat) / flat.size))
