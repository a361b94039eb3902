"""Generate images of overlapping discs, which have the statistics of natural images."""

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from deploykit.data.images.reader import DecodeJob, Pixels
from deploykit.data.preprocessing import Preprocessing

GENERATED = "generated"

_VERSION = 3  # of draw_dead_leaves; part of the digest
_LEAVES = 100
_SMALLEST, _LARGEST = 1 / 20, 1 / 2  # radii, as fractions of the side


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImages:
    """Images of an endless series.

    Attributes:
        indices: Indices into the series, ascending.
        seed: Selects the series; None for the default one.
    """

    indices: tuple[int, ...]
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def names(self) -> tuple[str, ...]:
        """The index of each image, as text."""
        return tuple(map(str, self.indices))

    def select(self, indices: Sequence[int]) -> "GeneratedImages":
        """Return a reader of these images only."""
        return replace(self, indices=tuple(self.indices[index] for index in indices))

    def digest(self) -> str:
        """Return the SHA-256 of the series and the indices, which does not depend on the image size."""
        total = hashlib.sha256(f"dead leaves {_VERSION}, seed {self.seed}\n".encode())
        total.update(np.array(self.indices, "<i8").tobytes())
        return total.hexdigest()

    def decode_jobs(self, preprocessing: Preprocessing) -> Generator[DecodeJob, None, None]:
        for index in self.indices:
            yield partial(draw_dead_leaves, preprocessing.side_px, index, self.seed)


def draw_dead_leaves(side_px: int, index: int, seed: int | None = None) -> Pixels:
    """Draw discs of random colour that overlap, with radii distributed as r^-3, as in natural images.

    Args:
        side_px: Side of the square image.
        index: Index into the series.
        seed: Selects the series.

    References:
        Lee, Mumford and Huang, "Occlusion models for natural images", IJCV 41, 2001.
    """
    generator = np.random.default_rng((index, 0 if seed is None else seed + 1))
    smallest, largest = _SMALLEST * side_px, _LARGEST * side_px
    quantiles = generator.random(_LEAVES)
    radii = (smallest**-2 + quantiles * (largest**-2 - smallest**-2)) ** -0.5
    centres = generator.random((_LEAVES, 2)) * side_px
    colours = (256 * generator.random((_LEAVES + 1, 3))).astype(np.uint8)
    image = np.empty((side_px, side_px, 3), np.uint8)
    image[:] = colours[_LEAVES]
    for radius, (row, column), colour in zip(radii, centres, colours, strict=False):
        _paint(image, float(radius), float(row), float(column), colour)
    return image


def _paint(image: Pixels, radius: float, row: float, column: float, colour: Pixels) -> None:
    """Paint a disc, touching only the square around it."""
    top, left = max(0, int(row - radius)), max(0, int(column - radius))
    square = image[top : int(row + radius) + 2, left : int(column + radius) + 2]
    rows, columns = np.arange(square.shape[0]) + (top - row), np.arange(square.shape[1]) + (left - column)
    square[(rows * rows)[:, None] + columns * columns < radius * radius] = colour
