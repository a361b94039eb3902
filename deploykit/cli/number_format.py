"""Numbers with as many digits as a sentence about them takes, never with an exponent."""

from decimal import Decimal

_GIVEN = 12  # significant digits that people give; more is what a change of units adds
_MOST = 40  # decimals, more than tell any two numbers of use apart


def as_given(value: float) -> str:
    """A number that somebody typed: `10`, `637.4`, `1234567`."""
    text = f"{Decimal(f'{value:.{_GIVEN}g}'):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def beside(value: float, target: float, *, decimals: int) -> str:
    """The value with so many decimals, or the target's, and more until it is on its side of the target."""
    wanted = Decimal(as_given(target))
    decimals = max(decimals, len(as_given(target).partition(".")[2]))
    shown = (f"{value:.{count}f}" for count in range(decimals, _MOST))
    side = (value > target) - (value < target)
    return next(
        (text for text in shown if (Decimal(text) > wanted) - (Decimal(text) < wanted) == side),
        f"{value:.{decimals}f}",
    )


def apart(one: float, other: float, *, decimals: int) -> tuple[str, str]:
    """Both with so many decimals, and with more until they differ."""
    pairs = [(f"{one:.{count}f}", f"{other:.{count}f}") for count in range(decimals, _MOST)]
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])
