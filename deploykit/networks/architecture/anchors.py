"""Anchors: the boxes of fixed places and sizes that a detector tells offsets from.

References:
    Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002, section 4: scales an octave.
    google/automl, efficientdet/keras/anchors.py: the order, and sizes relative to a level's own stride.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """Those of a square image.

    Attributes:
        side_px: the image's.
        map_sides: of each level's feature map, the finest first.
        scale: an anchor's side, in strides of its level.
        octaves: how many sizes there are of each until the next level's.
        aspects: width and height, times the side.
    """

    side_px: int
    map_sides: tuple[int, ...]
    scale: float = 4.0
    octaves: int = 3
    aspects: tuple[tuple[float, float], ...] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))

    @property
    def per_place(self) -> int:
        return self.octaves * len(self.aspects)

    @property
    def count(self) -> int:
        return self.per_place * sum(side * side for side in self.map_sides)

    def boxes(self) -> "npt.NDArray[np.float64]":
        """Centre and size of each, (count, 4: x, y, width, height), pixels; sizes first, then aspects."""
        import numpy as np

        return np.concatenate([self._level(side) for side in self.map_sides])

    def _level(self, map_side: int) -> "npt.NDArray[np.float64]":
        import numpy as np

        stride = self.side_px / map_side
        sizes = [
            (width * side, height * side)
            for side in (
                self.scale * stride * math.pow(2, octave / self.octaves) for octave in range(self.octaves)
            )
            for width, height in self.aspects
        ]
        centres = (np.arange(map_side) + 0.5) * stride
        y, x = np.meshgrid(centres, centres, indexing="ij")
        places = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
        shape = (len(places), len(sizes), 2)
        both = np.concatenate(
            [np.broadcast_to(places, shape), np.broadcast_to(np.array(sizes), shape)], axis=-1
        )
        return both.reshape(-1, 4)
