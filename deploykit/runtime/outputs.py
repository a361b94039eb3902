"""What an engine answers with."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Outputs = Array | dict[str, Array]
"""Of an engine with one output, that; else each by its name."""


def unwrap_single_output(arrays: dict[str, Array]) -> Outputs:
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))
