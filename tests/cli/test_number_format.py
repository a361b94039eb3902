"""Numbers as sentences have them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deploykit.cli.number_format import apart, as_given, beside


@pytest.mark.parametrize(
    ("value", "text"),
    [(10.0, "10"), (637.4, "637.4"), (1234567.0, "1234567"), (1.1 * 1e-3, "0.0011"), (1e9, "1000000000")],
)
def test_a_typed_number_is_printed_as_typed(value, text):
    assert as_given(value) == text


@pytest.mark.parametrize(
    ("value", "target", "decimals", "text"),
    [
        (1.5664, 1.566, 2, "1.5664"),
        (30.5, 10.0, 2, "30.50"),
        (1.6, 1.566, 2, "1.600"),
        (637.6, 637.9, 0, "637.6"),
        (14.03, 14.0, 0, "14.03"),
        (84.3, 84.34, 1, "84.30"),
        (10.0, 10.0, 2, "10.00"),
    ],
)
def test_a_value_is_printed_on_the_correct_side_of_its_target(value, target, decimals, text):
    assert beside(value, target, decimals=decimals) == text


@example(value=0.0010000000000000002, part=0.0, decimals=0)
@given(value=st.floats(1e-3, 1e6), part=st.floats(-1e-6, 1e-6), decimals=st.integers(0, 3))
def test_no_rounding_hides_a_miss(value, part, decimals):
    target = float(as_given(value * (1 + part)))
    shown = float(beside(value, target, decimals=decimals))
    assert (shown > target, shown < target) == (value > target, value < target)


def test_two_numbers_get_enough_digits_to_differ():
    assert apart(100.04, 100.02, decimals=0) == ("100.04", "100.02")
    assert apart(831.4, 555.1, decimals=0) == ("831", "555")
    assert apart(2.0, 2.0, decimals=0) == ("2", "2")
