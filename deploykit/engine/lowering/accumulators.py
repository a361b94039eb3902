"""INT8 steps with which no sum leaves the accumulators of a CPU's kernels.

Without VNNI, x86 multiplies uint8 activations by int8 weights with `vpmaddubsw`, which adds the
products of inputs 2i and 2i + 1 in 16 bits and saturates.
"""

import numpy as np
import numpy.typing as npt

from deploykit.util.array_types import Float32Array

LARGEST_PAIR = 128  # 255 * 128 = 32640 is below 2^15, 255 * 129 = 32895 is not
LARGEST_BIAS = 2**30  # leaves half of a 32-bit accumulator to the products: 65,000 inputs

Int8s = npt.NDArray[np.int8]


def fit_weight(
    values: Int8s, scales: Float32Array, *, bias: npt.NDArray[np.float64], activation_step: float
) -> tuple[Int8s, Float32Array]:
    """The same weight in steps that are coarser where sums could leave their accumulators.

    Args:
        values: (inputs, outputs).
        scales: the weight's step, (outputs,).
        bias: (outputs,), which starts the sum, in steps of activation times weight.

    Returns:
        Values and scales; what fitted already is as it was.
    """
    pairs = largest_pairs(values)
    # Two numbers that add to less than 128 add, rounded, to less than 129.
    saturating = np.where(pairs > LARGEST_PAIR, pairs / (LARGEST_PAIR - 1e-3), 1)
    overflowing = np.abs(bias) / (LARGEST_BIAS * activation_step * scales.astype(np.float64))
    factors = np.maximum(saturating, overflowing)
    return np.rint(values / factors).astype(np.int8), (scales * factors).astype(np.float32)


def largest_pairs(values: Int8s) -> npt.NDArray[np.int64]:
    """What two weights that meet in 16 bits add to at most, by magnitude, for each output.

    Of opposite signs they may meet a zero activation, so each counts alone.
    """
    even = np.pad(values.astype(np.int64), ((0, len(values) % 2), (0, 0)))
    signs = np.stack([np.maximum(even, 0), np.maximum(-even, 0)])
    largest: npt.NDArray[np.int64] = (signs[:, ::2] + signs[:, 1::2]).max(axis=(0, 1))
    return largest
