"""Random images to measure with: the time of a kernel does not depend on the values."""

from typing import Any

import numpy as np
import numpy.typing as npt


def random_images(shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Return standard normal float32 images or uniform uint8 images; the same every time."""
    generator = np.random.default_rng(0)
    if dtype == "uint8":
        return generator.integers(0, 256, shape, np.uint8)
    return generator.standard_normal(shape, np.float32)
