"""Quantities with units, as people type them."""

import re

from deploykit.errors import DeployError

_DURATION = re.compile(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*(us|µs|ms|s)\s*", re.IGNORECASE)
_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_RATE = re.compile(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*(?:(?:images|img|fps)?\s*(?:/s)?)\s*", re.IGNORECASE)


def duration_ms(text: str | None) -> float | None:
    """`10ms`, `500us`, `0.5s` -> milliseconds.

    Raises:
        DeployError: no number, or no unit.
    """
    if text is None:
        return None
    number = _float_of(_DURATION.fullmatch(text))
    if number is None:
        is_bare = _float_of(re.fullmatch(r"\s*([0-9.]+)\s*", text)) is not None
        raise DeployError(
            f"{text} what? A latency has a unit." if is_bare else f"{text!r} is not a latency.",
            fix=f"write --max-latency {text.strip() if is_bare else '10'}ms",
        )
    match = _DURATION.fullmatch(text)
    return number * _MILLISECONDS[match[2].lower()] if match else None


def images_per_s(text: str | None) -> float | None:
    """`500` or `500/s` -> images a second.

    Raises:
        DeployError: no number.
    """
    if text is None:
        return None
    number = _float_of(_RATE.fullmatch(text))
    if number is None:
        raise DeployError(
            f"{text!r} is not a throughput.", fix="write --min-throughput 500, in images a second"
        )
    return number


def _float_of(match: re.Match[str] | None) -> float | None:
    try:
        return float(match[1]) if match else None
    except ValueError:  # 1.2.3
        return None
