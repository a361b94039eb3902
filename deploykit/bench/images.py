"""Images to measure with: of noise, since no kernel's time depends on what is in them."""

from typing import Any

import numpy as np
import numpy.typing as npt


def random_images(shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Standard normal, or uint8 of all values alike; the same ones every time."""
    generator = np.random.default_rng(0)
    if dtype == "uint8":
        return generator.integers(0, 256, shape, np.uint8)
    return generator.standard_normal(shape, np.float32)
