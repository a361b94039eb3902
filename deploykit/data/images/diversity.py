"""Check whether calibration images differ enough for their ranges to hold for other images."""

import zlib

import numpy as np

from deploykit.util.array_types import Float32Array

# Root mean square difference of two normalized inputs; with ImageNet's statistics 6 of 255 gray levels.
# Any two of 48 photographs are 0.9 or more apart, and each from itself at JPEG quality 85 less than 0.1.
_SIMILAR_RMS = 0.1
_MIN_DISTINCT_FRACTION = 1 / 2


class DiversityCheck:
    """Examines batches one after the other, and warns about images that hardly differ.

    It keeps one image, and a checksum of every other.
    """

    def __init__(self) -> None:
        self._first: Float32Array | None = None
        self._largest_rms = 0.0
        self._count = 0
        self._distinct: set[int] = set()

    def add(self, inputs: Float32Array) -> None:
        """Examine the inputs of a batch, (n, 3, side, side)."""
        if self._first is None:
            self._first = inputs[0].copy()
        for image in inputs:
            self._distinct.add(zlib.crc32(np.ascontiguousarray(image).data))
            if self._largest_rms < _SIMILAR_RMS:
                self._largest_rms = max(self._largest_rms, _rms(image - self._first))
        self._count += len(inputs)

    def warning(self) -> str | None:
        """Return a warning for the user, or None if the images differ enough or there is only one."""
        distinct = len(self._distinct)
        if self._count < 2:
            return None
        if distinct == 1:
            return f"All {self._count} images are identical: the ranges describe a single image."
        if self._largest_rms < _SIMILAR_RMS:
            return f"The {self._count} images hardly differ: the ranges hold only for similar images."
        if distinct <= self._count * _MIN_DISTINCT_FRACTION:
            return f"Only {distinct} of the {self._count} images are distinct."
        return None


def _rms(difference: Float32Array) -> float:
    flat = difference.ravel()
    return float(np.sqrt(np.dot(flat, flat) / flat.size))
