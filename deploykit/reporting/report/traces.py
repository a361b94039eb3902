"""Series and axes as Plotly's JSON schema has them: the one place that knows it."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from deploykit.reporting.report.section import Trace, hover, label
from deploykit.stats.estimate import Estimate

# Okabe and Ito 2008: told apart by every kind of colour vision; the darker and lighter are left out, so that
# all of them stand on white and on black. One for each setup, the same in every plot.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8c6bb1",
    "#7f7f7f",
    "#a6761d",
)
# Tol 2021, "light": for what is no setup, as kinds of layers and axes of scaling.
PALE = (
    "#77aadd",
    "#ee8866",
    "#eedd88",
    "#ffaabb",
    "#99ddff",
    "#44bb99",
    "#bbcc33",
    "#bbbbbb",
    "#aaaa00",
)
GREY = "#8a8a8a"
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "triangle-down", "star")
MOST_SHOWN = 20  # series: of more, one setup's are shown at first

_FAINTEST = 0.6


def scatter(
    name: Sequence[str],
    x: Sequence[float],
    y: Sequence[float],
    *,
    colour: str,
    told: Sequence[Sequence[str]] | None = None,
    mode: Literal["lines+markers", "markers", "lines"] = "lines+markers",
    symbol: str = "circle",
    dash: str = "solid",
    width: float = 2,
    opacity: float = 1.0,
    step: bool = False,
    shown: bool = True,
    errors_x: Sequence[Estimate] | None = None,
    errors_y: Sequence[Estimate] | None = None,
) -> Trace:
    """A line, points, or both.

    Args:
        name: in the legend, in parts.
        told: lines of text beside the pointer, for each point; None for nothing.
        errors_x, errors_y: whose intervals are drawn at each point.
    """
    trace: Trace = {
        "type": "scatter",
        "mode": mode,
        "name": label(*name),
        "x": list(x),
        "y": list(y),
        "opacity": opacity,
        "visible": True if shown else "legendonly",
    }
    if "lines" in mode:
        trace["line"] = {"color": colour, "dash": dash, "width": width, "shape": "hv" if step else "linear"}
    if "markers" in mode:
        trace["marker"] = {"color": colour, "symbol": symbol, "size": 9 if mode == "markers" else 6}
    for axis, errors in (("error_x", errors_x), ("error_y", errors_y)):
        if errors is not None:
            trace[axis] = _whiskers(errors, colour)
    return {**trace, **_told(told)}


def bars(
    name: str,
    x: Sequence[Sequence[str]],
    y: Sequence[float],
    *,
    colour: str,
    hatched: Sequence[bool],
    told: Sequence[Sequence[str]],
) -> Trace:
    """Stacked bars in groups; x: the groups of all, and their names there."""
    return {
        "type": "bar",
        "name": label(name),
        "x": [[label(each) for each in names] for names in x],
        "y": list(y),
        "marker": {
            "color": colour,
            "pattern": {"shape": ["/" if each else "" for each in hatched], "solidity": 0.5},
        },
        **_told(told),
    }


def shade(index: int, count: int) -> float:
    """How opaque the series of one of many networks is: the larger, the more."""
    return 1.0 if count < 2 else _FAINTEST + (1 - _FAINTEST) * index / (count - 1)


def log_axis(title: str, traces: Sequence[Trace], letter: Literal["x", "y"]) -> dict[str, Any]:
    """A logarithmic axis with numbers on it, however little the traces' values span."""
    ticks = _ticks([value for trace in traces for value in trace[letter]])
    return {
        "title": {"text": title},
        "type": "log",
        "tickvals": ticks,
        "ticktext": [f"{each:.4g}" for each in ticks],
    }


def _told(told: Sequence[Sequence[str]] | None) -> Trace:
    if told is None:
        return {"hoverinfo": "skip"}
    return {"hoverinfo": "text", "hovertext": [hover(*lines) for lines in told]}


def _whiskers(errors: Sequence[Estimate], colour: str) -> dict[str, Any]:
    """None where an end is open."""
    return {
        "type": "data",
        "array": [None if each.high is None else each.high - each.value for each in errors],
        "arrayminus": [None if each.low is None else each.value - each.low for each in errors],
        "thickness": 1,
        "color": colour,
    }


def _ticks(values: Sequence[float]) -> list[float]:
    """1, 2, 5, 10, ... around the values; closer together where that makes less than three."""
    low, high = min(values) / 1.3, max(values) * 1.3
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(each / 10 for each in range(10, 100))):
        found = [digit * 10.0**decade for decade in decades for digit in digits]
        found = [each for each in found if low <= each <= high]
        if len(found) >= 3:
            break
    return found
