"""A fit as a picture: the latency of each phi with its interval, and the target."""

import io
import math
from html import escape
from pathlib import Path

from deploykit.networks.scaling import format_phi
from deploykit.planning.fit.answer import Candidate, Fit
from deploykit.util.atomic_files import require_writable, write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

SUFFIXES = (".png", ".svg", ".html")
_COLUMNS = 60
_FITS, _MISSES = "#2a7f62", "#b3541e"  # told apart by the colour-blind too, and by their markers


def in_the_terminal(fit: Fit) -> str:
    """A line a phi, on a logarithmic scale: `├──●──┤`, hollow where it doesn't fit, the target as `┊`."""
    target_ms = fit.goal.max_latency_ms
    ends = [end for each in fit.candidates for end in (each.latency.low_ms, each.latency.high_ms)]
    values = [*ends, *([] if target_ms is None else [target_ms])]
    low, high = math.log(min(values)), math.log(max(values))

    def column(milliseconds: float) -> int:
        return round((_COLUMNS - 1) * (math.log(milliseconds) - low) / ((high - low) or 1.0))

    def line(each: Candidate) -> str:
        cells = [" "] * _COLUMNS
        start, end = column(each.latency.low_ms), column(each.latency.high_ms)
        cells[start : end + 1] = "─" * (end - start + 1)
        if target_ms is not None:
            cells[column(target_ms)] = "┊"
        cells[start], cells[end] = "├", "┤"
        cells[column(each.latency.expected_ms)] = "●" if each.fits else "○"
        return f"{format_phi(each.phi):>5} {''.join(cells)}".rstrip()

    scale = f"{min(values):.3g} ms".ljust(_COLUMNS - 10) + f"{max(values):.3g} ms".rjust(10)
    return "\n".join(["  phi", *map(line, fit.candidates), f"      {scale}"])


def require_drawable(path: Path) -> None:
    """Before a long measurement, what would fail after it.

    Raises:
        DeployError: another kind of file, or one that can't be written.
    """
    if path.suffix not in SUFFIXES:
        raise DeployError(
            f"{path} names no kind of picture that can be drawn.",
            code="invalid-output-name",
            fix="end it in .png, .svg or .html",
        )
    require("plotly" if path.suffix == ".html" else "matplotlib", extra="plot")
    require_writable(path, option="--plot")


def draw(fit: Fit, path: Path) -> None:
    """Writes the picture, of the kind that the name says.

    Raises:
        DeployError: see require_drawable.
    """
    require_drawable(path)
    write_atomically(path, _page(fit) if path.suffix == ".html" else _image(fit, path.suffix[1:]))


def _title(fit: Fit) -> str:
    first = fit.candidates[0]
    axis = "" if fit.axis is None else f", {fit.axis} alone"
    return f"{fit.family}{axis}, {first.precision.upper()} on {fit.gpu}, {first.latency.evidence}"


def _image(fit: Fit, kind: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "deploykit"}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        for each in fit.candidates:
            latency = each.latency
            below, above = latency.expected_ms - latency.low_ms, latency.high_ms - latency.expected_ms
            axes.errorbar(
                each.phi,
                latency.expected_ms,
                yerr=[[below], [above]],
                marker="o",
                capsize=3,
                color=_FITS if each.fits else _MISSES,
                markerfacecolor=_FITS if each.fits else "white",
            )
        if fit.goal.max_latency_ms is not None:
            axes.axhline(fit.goal.max_latency_ms, color="0.4", linestyle="--", linewidth=1)
        axes.set_title(_title(fit), parse_math=False)  # a GPU's name may have dollars
        axes.set(xlabel="phi", ylabel="latency of a batch, ms", yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        out = io.BytesIO()
        figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def _page(fit: Fit) -> str:
    go = require("plotly.graph_objects", extra="plot")
    figure = go.Figure()
    for fits, name in ((True, "fits"), (False, "does not fit")):
        mine = [each for each in fit.candidates if each.fits is fits]
        figure.add_scatter(
            x=[each.phi for each in mine],
            y=[each.latency.expected_ms for each in mine],
            error_y={
                "array": [each.latency.high_ms - each.latency.expected_ms for each in mine],
                "arrayminus": [each.latency.expected_ms - each.latency.low_ms for each in mine],
            },
            mode="markers",
            marker={
                "color": _FITS if fits else _MISSES,
                "symbol": "circle" if fits else "circle-open",
                "size": 9,
            },
            name=name,
            customdata=[(each.batch, each.images_per_s, each.scale.side_px) for each in mine],
            hovertemplate="phi %{x}: %{y:.2f} ms, %{customdata[2]} px, batch %{customdata[0]}, "
            "%{customdata[1]:.0f} images/s",
        )
    if fit.goal.max_latency_ms is not None:
        figure.add_hline(fit.goal.max_latency_ms, line={"dash": "dash", "color": "gray"})
    figure.update_layout(title=escape(_title(fit), quote=False), template="plotly_white")
    figure.update_xaxes(title="phi")
    figure.update_yaxes(title="latency of a batch, ms", type="log")
    return str(figure.to_html(include_plotlyjs=True))
