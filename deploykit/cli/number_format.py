"""Numbers in sentences: as many digits as the comparison needs, and never an exponent."""

from decimal import Decimal

_GIVEN = 12  # significant digits that people type; further digits come from unit conversions
_MOST = 40  # decimals; more than any two useful numbers need to differ


def as_given(value: float) -> str:
    """Return a number as a user would type it: `10`, `637.4`, `1234567`."""
    text = f"{Decimal(f'{value:.{_GIVEN}g}'):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def beside(value: float, target: float, *, decimals: int) -> str:
    """Return the value with enough decimals to be on the correct side of the target as printed."""
    wanted = Decimal(as_given(target))
    decimals = max(decimals, len(as_given(target).partition(".")[2]))
    shown = (f"{value:.{count}f}" for count in range(decimals, _MOST))
    side = (value > target) - (value < target)
    return next(
        (text for text in shown if (Decimal(text) > wanted) - (Decimal(text) < wanted) == side),
        f"{value:.{decimals}f}",
    )


def apart(one: float, other: float, *, decimals: int) -> tuple[str, str]:
    """Return both numbers with this many decimals, or with more until they differ."""
    pairs = [(f"{one:.{count}f}", f"{other:.{count}f}") for count in range(decimals, _MOST)]
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])
