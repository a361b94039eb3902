"""Anchors: boxes of fixed positions and sizes, relative to which a detector predicts offsets.

References:
    Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002, section 4: scales per octave.
    google/automl, efficientdet/keras/anchors.py: their order, and sizes relative to a level's stride.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploykit.util.array_types import Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """The anchors of a square image.

    Attributes:
        side_px: Side of the image, pixels.
        map_sides: Side of each level's feature map, finest first.
        scale: Side of an anchor, in strides of its level.
        octaves: Number of sizes per level, up to the next level's.
        aspects: Width and height as multiples of the side.
    """

    side_px: int
    map_sides: tuple[int, ...]
    scale: float = 4.0
    octaves: int = 3
    aspects: tuple[tuple[float, float], ...] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))

    @property
    def per_location(self) -> int:
        """Number of anchors at each location of a feature map."""
        return self.octaves * len(self.aspects)

    @property
    def count(self) -> int:
        """Number of anchors of the image."""
        return self.per_location * sum(side * side for side in self.map_sides)

    def boxes(self) -> "Float64Array":
        """Return centre and size of each anchor, (count, 4: x, y, width, height), pixels.

        At a location, anchors are ordered by size, then by aspect.
        """
        import numpy as np

        return np.concatenate([self._level(side) for side in self.map_sides])

    def _level(self, map_side: int) -> "Float64Array":
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
        locations = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
        shape = (len(locations), len(sizes), 2)
        centres_and_sizes = np.concatenate(
            [np.broadcast_to(locations, shape), np.broadcast_to(np.array(sizes), shape)], axis=-1
        )
        return centres_and_sizes.reshape(-1, 4)
