"""Build series and axes in Plotly's JSON schema; no other module knows it."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from deploykit.reporting.report.section import Trace
from deploykit.reporting.report.text import hover_text, plot_label
from deploykit.stats.estimate import Estimate

# Okabe and Ito 2008: distinguishable with every kind of colour vision. The darkest and lightest are left out,
# so that all are visible on white and on black. Each setup has one colour in every plot.
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
# Tol 2021, "light": for kinds of layers and scaling axes, which are not setups.
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
MAX_VISIBLE = 20  # with more series, only one setup's are visible at first

_MIN_OPACITY = 0.6


def scatter(
    name: Sequence[str],
    x: Sequence[float],
    y: Sequence[float],
    *,
    colour: str,
    hover_lines: Sequence[Sequence[str]] | None = None,
    mode: Literal["lines+markers", "markers", "lines"] = "lines+markers",
    symbol: str = "circle",
    dash: str = "solid",
    width: float = 2,
    opacity: float = 1.0,
    step: bool = False,
    visible: bool = True,
    errors_x: Sequence[Estimate] | None = None,
    errors_y: Sequence[Estimate] | None = None,
) -> Trace:
    """Return a line, points, or both.

    Args:
        name: Name in the legend, in parts.
        x, y: One value per point.
        colour: Colour of line and points.
        hover_lines: Lines of text to show next to the pointer, for each point; None for no text.
        mode: What to draw.
        symbol, dash, width, opacity: Style, in Plotly's terms.
        step: Whether the line runs in steps.
        visible: Whether the series is visible at first, and not only in the legend.
        errors_x, errors_y: Estimates whose intervals to draw, one per point.
    """
    trace: Trace = {
        "type": "scatter",
        "mode": mode,
        "name": plot_label(*name),
        "x": list(x),
        "y": list(y),
        "opacity": opacity,
        "visible": True if visible else "legendonly",
    }
    if "lines" in mode:
        trace["line"] = {"color": colour, "dash": dash, "width": width, "shape": "hv" if step else "linear"}
    if "markers" in mode:
        trace["marker"] = {"color": colour, "symbol": symbol, "size": 9 if mode == "markers" else 6}
    for axis, errors in (("error_x", errors_x), ("error_y", errors_y)):
        if errors is not None:
            trace[axis] = _make_whiskers(errors, colour)
    return {**trace, **_make_hover(hover_lines)}


def bars(
    name: str,
    x: Sequence[Sequence[str]],
    y: Sequence[float],
    *,
    colour: str,
    hatched: Sequence[bool],
    hover_lines: Sequence[Sequence[str]],
) -> Trace:
    """Return stacked bars.

    Args:
        name: Name in the legend.
        x: Two sequences, the group of each bar and its name within the group.
        y: Height of each bar.
        colour: Colour of the bars.
        hatched: Which bars are hatched.
        hover_lines: Lines of text to show next to the pointer, for each bar.
    """
    return {
        "type": "bar",
        "name": plot_label(name),
        "x": [[plot_label(each) for each in names] for names in x],
        "y": list(y),
        "marker": {
            "color": colour,
            "pattern": {"shape": ["/" if each else "" for each in hatched], "solidity": 0.5},
        },
        **_make_hover(hover_lines),
    }


def series_opacity(index: int, count: int) -> float:
    """Return the opacity of one of `count` networks' series; larger networks are more opaque."""
    return 1.0 if count < 2 else _MIN_OPACITY + (1 - _MIN_OPACITY) * index / (count - 1)


def log_axis(title: str, traces: Sequence[Trace], letter: Literal["x", "y"]) -> dict[str, Any]:
    """Return a logarithmic axis with at least three numbers, even if the values span little."""
    ticks = _choose_ticks([value for trace in traces for value in trace[letter]])
    return {
        "title": {"text": title},
        "type": "log",
        "tickvals": ticks,
        "ticktext": [f"{each:.4g}" for each in ticks],
    }


def work_latency_layout(traces: Sequence[Trace]) -> dict[str, Any]:
    """Return the axes of a plot of latency against work."""
    return {
        "xaxis": log_axis("multiply-accumulates per image, G", traces, "x"),
        "yaxis": log_axis("median latency at batch 1, ms", traces, "y"),
    }


def _make_hover(hover_lines: Sequence[Sequence[str]] | None) -> Trace:
    if hover_lines is None:
        return {"hoverinfo": "skip"}
    return {"hoverinfo": "text", "hovertext": [hover_text(*lines) for lines in hover_lines]}


def _make_whiskers(errors: Sequence[Estimate], colour: str) -> dict[str, Any]:
    """Return error bars; an open end of an interval has none."""
    return {
        "type": "data",
        "array": [None if each.high is None else each.high - each.value for each in errors],
        "arrayminus": [None if each.low is None else each.value - each.low for each in errors],
        "thickness": 1,
        "color": colour,
    }


def _choose_ticks(values: Sequence[float]) -> list[float]:
    """Return 1, 2, 5, 10, ... around the values, or closer numbers if that gives fewer than three."""
    low, high = min(values) / 1.3, max(values) * 1.3
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(each / 10 for each in range(10, 100))):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        ticks = [each for each in ticks if low <= each <= high]
        if len(ticks) >= 3:
            break
    return ticks
