"""Quantities with units, as users type them."""

import math
import re
from collections.abc import Callable
from typing import TypeVar

from deploykit.networks.families.family import FRACTION_DIGITS
from deploykit.util.errors import DeployError

T = TypeVar("T")
_NUMBER = r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*"
_DURATION = re.compile(_NUMBER + r"(us|ms|s)\s*")
_RATE = re.compile(_NUMBER + r"(?:images|img|fps)?\s*(?:/s)?\s*")
_SIZE = re.compile(_NUMBER + r"([kmgt]i?b)\s*")
_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12} | {
    "kib": 2.0**10,
    "mib": 2.0**20,
    "gib": 2.0**30,
    "tib": 2.0**40,
}
_PERCENT = re.compile(_NUMBER + r"(%?)\s*")
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_MICRO = str.maketrans("\N{MICRO SIGN}\N{GREEK SMALL LETTER MU}", "uu")


def parse_duration_ms(text: str | None) -> float | None:
    """Return `10ms`, `500us` or `0.5s` in milliseconds.

    Raises:
        DeployError: The number or the unit is missing.
    """
    if text is None:
        return None
    plain = text.lower().translate(_MICRO)
    if (match := _DURATION.fullmatch(plain)) and (number := _float(match[1])) is not None:
        return number * _MILLISECONDS[match[2]]
    bare = re.fullmatch(_NUMBER, plain)
    if bare and _float(bare[1]) is not None:
        raise DeployError(
            f"--max-latency needs a unit, for example {bare[1]}ms.",
            code="unit-missing",
            fix=f"write --max-latency {bare[1]}ms",
        )
    raise DeployError(
        f"--max-latency needs a duration with a unit, not {text!r}.",
        code="invalid-latency-target",
        fix="write --max-latency 10ms",
    )


def parse_images_per_s(text: str | None) -> float | None:
    """Return `500` or `500/s` in images per second.

    Raises:
        DeployError: The text is not a number.
    """
    if text is None:
        return None
    match = _RATE.fullmatch(text.lower())
    number = _float(match[1]) if match else None
    if number is None:
        raise DeployError(
            f"--min-throughput needs a number of images per second, not {text!r}.",
            code="invalid-throughput-target",
            fix="write --min-throughput 500",
        )
    return number


def parse_size_bytes(text: str, *, option: str, example: str) -> int:
    """Return `4GB` or `512MiB` in bytes.

    Raises:
        DeployError: The number or the unit is missing.
    """
    match = _SIZE.fullmatch(text.lower())
    size = (_float(match[1]) or 0.0) * _BYTES[match[2]] if match else 0.0
    if not 0 < size < math.inf:
        raise DeployError(
            f"{option} needs a size with a unit, not {text!r}.",
            code="invalid-memory-target",
            fix=f"write {option} {example}",
        )
    return round(size)


def parse_fraction(text: str | None) -> float | None:
    """Return `80%`, `80` or `0.8` as 0.8.

    Raises:
        DeployError: The text is not a number.
    """
    if text is None:
        return None
    match = _PERCENT.fullmatch(text)
    number = _float(match[1]) if match else None
    if match is None or number is None:
        raise DeployError(
            f"--min-accuracy needs a percentage, not {text!r}.",
            code="invalid-accuracy-target",
            fix="write --min-accuracy 80%",
        )
    return round(number / 100, FRACTION_DIGITS) if match[2] or number > 1 else number


def parse_numbers(text: str, kind: Callable[[str], T], *, option: str, example: str) -> tuple[T, ...]:
    """Return the numbers in `1,8,32`.

    Raises:
        DeployError: A part is not a number of this kind.
    """
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise DeployError(
            f"{option} needs numbers separated by commas, not {text!r}.",
            code="invalid-option-value",
            fix=f"write {option} {example}",
        ) from error


def _float(digits: str) -> float | None:
    try:
        return float(digits)
    except ValueError:  # 1.2.3
        return None
