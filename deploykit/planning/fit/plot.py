"""Plot a fit: the latency of each phi with its interval, and the target."""

import io
import math
from html import escape
from pathlib import Path

from deploykit.networks.scaling import format_phi
from deploykit.planning.fit.result import Candidate, FitResult
from deploykit.util.atomic_files import require_writable, write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

SUFFIXES = (".png", ".svg", ".html")
_COLUMNS = 60
_FITS, _MISSES = "#2a7f62", "#b3541e"  # distinguishable to the colour-blind, and by their markers


def plot_in_terminal(result: FitResult) -> str:
    """Return one line per phi on a logarithmic scale: `├──●──┤`, hollow if it misses, the target as `┊`."""
    target_ms = result.targets.max_latency_ms
    ends = [end for each in result.candidates for end in (each.latency.low_ms, each.latency.high_ms)]
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
    return "\n".join(["  phi", *map(line, result.candidates), f"      {scale}"])


def require_plottable(path: str | Path) -> None:
    """Check, before a long measurement, that the plot can be written after it.

    Raises:
        DeployError: The suffix is unknown, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise DeployError(
            f"{path} does not end in .png, .svg or .html.",
            code="invalid-output-name",
            fix="give --plot fit.png, fit.svg or fit.html",
        )
    require("plotly" if path.suffix == ".html" else "matplotlib", extra="plot")
    require_writable(path, option="--plot")


def write_plot(result: FitResult, path: str | Path) -> None:
    """Write the plot, in the format that the file name's suffix says.

    Raises:
        DeployError: See require_plottable.
    """
    path = Path(path)
    require_plottable(path)
    write_atomically(path, _page(result) if path.suffix == ".html" else _image(result, path.suffix[1:]))


def _title(result: FitResult) -> str:
    first = result.candidates[0]
    axis = "" if result.axis is None else f", {result.axis} alone"
    return f"{result.family}{axis}, {first.precision.upper()} on {result.gpu}, {first.latency.evidence}"


def _image(result: FitResult, kind: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "deploykit"}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        for each in result.candidates:
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
        if result.targets.max_latency_ms is not None:
            axes.axhline(result.targets.max_latency_ms, color="0.4", linestyle="--", linewidth=1)
        axes.set_title(_title(result), parse_math=False)  # a GPU's name may contain dollar signs
        axes.set(xlabel="phi", ylabel="latency of one batch, ms", yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        out = io.BytesIO()
        figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def _page(result: FitResult) -> str:
    go = require("plotly.graph_objects", extra="plot")
    figure = go.Figure()
    for fits, name in ((True, "fits"), (False, "does not fit")):
        shown = [each for each in result.candidates if each.fits is fits]
        figure.add_scatter(
            x=[each.phi for each in shown],
            y=[each.latency.expected_ms for each in shown],
            error_y={
                "array": [each.latency.high_ms - each.latency.expected_ms for each in shown],
                "arrayminus": [each.latency.expected_ms - each.latency.low_ms for each in shown],
            },
            mode="markers",
            marker={
                "color": _FITS if fits else _MISSES,
                "symbol": "circle" if fits else "circle-open",
                "size": 9,
            },
            name=name,
            customdata=[(each.batch, each.images_per_s, each.scale.side_px) for each in shown],
            hovertemplate="phi %{x}: %{y:.2f} ms, %{customdata[2]} px, batch %{customdata[0]}, "
            "%{customdata[1]:.0f} images/s",
        )
    if result.targets.max_latency_ms is not None:
        figure.add_hline(result.targets.max_latency_ms, line={"dash": "dash", "color": "gray"})
    figure.update_layout(title=escape(_title(result), quote=False), template="plotly_white")
    figure.update_xaxes(title="phi")
    figure.update_yaxes(title="latency of one batch, ms", type="log")
    return str(figure.to_html(include_plotlyjs=True))
