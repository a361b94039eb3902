"""Format the words of a report: names in plots, lists, counts."""

from collections.abc import Sequence
from html import escape

_MAX_NAME = 44  # characters of a name in a plot
_MAX_LINE = 34


def escape_text(text: str) -> str:
    """Escape text for a plot, where labels may contain tags, links and formulas between dollar signs."""
    return escape(text, quote=False).replace("$", "&#36;")


def plot_label(*parts: str) -> str:
    """Return a name for a plot: long parts are cut in the middle, and long names take several lines."""
    cut = [each if len(each) <= _MAX_NAME else f"{each[:28]}…{each[-15:]}" for each in parts]
    separator = ", " if sum(map(len, cut)) <= _MAX_LINE else ",<br>"
    return separator.join(map(escape_text, cut))


def hover_text(*lines: str) -> str:
    """Return the text that is shown next to the pointer."""
    return "<br>".join(plot_label(line) if len(line) > 2 * _MAX_NAME else escape_text(line) for line in lines)


def join_words(words: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def count_noun(number: int, noun: str) -> str:
    """Return `1 record`, or `2 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_giga(macs: float) -> str:
    """Return `1.83 G`."""
    return f"{macs / 1e9:.3g} G"
