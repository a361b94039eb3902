"""Shared aliases of NumPy array types."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""An array of any element type."""

FloatArray = npt.NDArray[np.floating[Any]]
"""An array of any floating-point type."""
