"""Shared aliases of NumPy array types."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""An array of any element type."""

FloatArray = npt.NDArray[np.floating[Any]]
"""An array of any floating-point type."""

Float32Array = npt.NDArray[np.float32]
"""An array of 32-bit floats."""

Float64Array = npt.NDArray[np.float64]
"""An array of 64-bit floats."""

Labels = npt.NDArray[np.int64]
"""The class of each image, counted from 0, (n,)."""

Indices = npt.NDArray[np.int64]
"""Indices of images, ascending, (n,)."""
