"""What an engine answers with."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Answer = Array | dict[str, Array]
"""Of an engine with one output, that; else each by its name."""


def answer_of(arrays: dict[str, Array]) -> Answer:
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))
