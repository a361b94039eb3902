"""Weights whose products never leave 16 bits, pair by pair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.engine.lowering.accumulators import fit_weight

int8s = st.integers(-127, 127)


@given(st.lists(st.tuples(int8s, int8s), min_size=1, max_size=6), st.booleans())
def test_no_pair_of_products_leaves_16_bits_whatever_the_activations(pairs, odd):
    column = np.array(pairs).reshape(-1, 1)[: -1 if odd else None]
    values, scales = fit_weight(
        column.astype(np.int8), np.ones(1, np.float32), bias=np.zeros(1), activation_step=1.0
    )
    even = np.pad(values[:, 0].astype(int), (0, len(values) % 2)).reshape(-1, 2)
    for first in (0, 255):
        for second in (0, 255):
            sums = even @ [first, second]
            assert (np.abs(sums) <= 32767).all()
    # Half a step is what rounding costs; a step grows to twice its size at most, but for rounding.
    assert (np.abs(values * np.float64(scales) - column) <= scales / 2 + 1e-4).all()
    assert 1 <= scales[0] <= 2 * 127 / 127 + 1e-6


@pytest.mark.parametrize(
    "column",
    [[64, 64], [127, 1], [1, 127], [127, -127], [-127, 127, -1], [127], [0, 0], [-100, -28, 100, 28]],
)
def test_weights_that_fit_16_bits_stay_as_they_are(column):
    values = np.array(column, np.int8).reshape(-1, 1)
    scale = np.array([0.3], np.float32)
    fitted = fit_weight(values, scale, bias=np.zeros(1), activation_step=0.1)
    assert (fitted[0] == values).all()
    assert fitted[1] == scale


def test_only_channels_that_could_saturate_get_coarser_steps():
    values = np.array([[127, 127], [1, 127]], np.int8)
    fitted, scales = fit_weight(values, np.ones(2, np.float32), bias=np.zeros(2), activation_step=1.0)
    assert fitted[:, 0].tolist() == [127, 1]
    assert scales[0] == 1
    assert scales[1] == pytest.approx(254 / 128, rel=1e-4)
    assert fitted[:, 1].tolist() == [64, 64]
