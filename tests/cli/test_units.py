"""Quantities with units, as users type them."""

import pytest
from refusals import refuses

from deploykit.cli.units import parse_duration_ms, parse_images_per_s, parse_size_bytes
from deploykit.util.errors import DeployError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10ms", 10), ("10 ms", 10), ("500us", 0.5), ("0.5s", 500), ("1e1MS", 10), (" 2.5ms ", 2.5)],
)
def test_latencies_are_read_with_their_units(text, expected):
    assert parse_duration_ms(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["10", "ms", "", "-5ms", "1.2.3ms", "10m", "ten ms", "10ms!"])
def test_invalid_latencies_are_refused(text):
    with pytest.raises(DeployError):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("500", 500), ("500/s", 500), ("500 images/s", 500), ("1e3", 1000)]
)
def test_throughputs_are_images_per_second(text, expected):
    assert parse_images_per_s(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4GB", 4e9), ("512 MiB", 2**29), ("1kb", 1e3), ("100TB", 1e14), ("2tib", 2**41), ("0.5KiB", 512)],
)
def test_sizes_are_read_with_their_units(text, expected):
    assert parse_size_bytes(text, option="--max-memory", example="4GB") == expected


@pytest.mark.parametrize("text", ["4", "GB", "", "0GB", "-1GB", "1e999GB", "1PB", "4i"])
def test_invalid_sizes_are_refused(text):
    with refuses("invalid-memory-target"):
        parse_size_bytes(text, option="--max-memory", example="4GB")
