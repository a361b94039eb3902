"""Make the tables and the figure of docs/cost-model.md from the fits."""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from tables import row as line

from cost_model.errors import (
    RowError,
    by_gpu,
    by_gpu_and_network,
    compute_interval,
    coverage_by_other_gpus,
    errors_without_gpu_and_design,
    extrapolation_errors,
    held_out_errors,
    in_sample_errors,
    keep_efficientnets,
    mean_absolute_error,
    total_coverage_by_other_gpus,
)
from cost_model.fit import PRIOR_CENTRE, PRIOR_LOG_SPREAD, fit_parameters, log_ratios
from cost_model.published import PublishedLatency
from deploykit.planning.cost_model.fitted_model import Parameters

Pairs = tuple[RowError, ...]
LARGEST_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FitErrors:
    """Every fit that the page describes.

    Attributes:
        in_sample: Each row under the fit to all rows.
        without_gpu, without_network, without_gpu_and_design: Each row under a fit without its GPU, without
            its network on that GPU, and without its GPU and every size of its design.
    """

    rows: tuple[PublishedLatency, ...]
    in_sample: Pairs
    without_gpu: Pairs
    without_network: Pairs
    without_gpu_and_design: Pairs

    @property
    def named(self) -> tuple[tuple[str, Pairs], ...]:
        return (
            ("in sample", self.in_sample),
            ("fitted without that GPU", self.without_gpu),
            ("fitted without that network on that GPU", self.without_network),
            ("fitted without that GPU and without any size of that network", self.without_gpu_and_design),
        )

    @property
    def interval_sources(self) -> tuple[tuple[str, Pairs], ...]:
        return (
            (
                "EfficientNets on GPUs where they were published, from fits without that network there",
                keep_efficientnets(self.without_network),
            ),
            ("published families on other GPUs, from fits without that GPU", self.without_gpu),
            (
                "other families and FP32, from fits without that GPU and that design",
                self.without_gpu_and_design,
            ),
        )


def fit_all(rows: Sequence[PublishedLatency]) -> FitErrors:
    """Run every fit."""
    return FitErrors(
        rows=tuple(rows),
        in_sample=in_sample_errors(rows),
        without_gpu=held_out_errors(rows, by_gpu),
        without_network=held_out_errors(rows, by_gpu_and_network),
        without_gpu_and_design=errors_without_gpu_and_design(rows),
    )


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """Return the page with each table between its marks, `<!-- name -->` and `<!-- end -->`."""
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, found, rest = page.partition(begin)
        if not found or end not in rest:
            raise SystemExit(f"the page has no marks for the table {name}")
        page = before + begin + table + end + rest.partition(end)[2]
    return page


def tables(fits: FitErrors) -> dict[str, str]:
    """Return the Markdown tables, by name."""
    return {
        "parameters": _parameters(fit_parameters(fits.rows)),
        "errors": _errors(fits),
        "bounds": _bounds(fits.rows),
        "intervals": _intervals(fits),
        "distance": _distance(fits),
        "points": _points(keep_efficientnets(fits.without_gpu)),
    }


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [line(*heading), line(*("---" for _ in heading)), *(line(*cells) for cells in rows)]
    return "".join(f"{each}\n" for each in lines)


def _parameters(found: Parameters) -> str:
    meaning = dict(re.findall(r"^ +(\w+): (.+?)\.?$", Parameters.__doc__ or "", re.MULTILINE))
    centre, spread = asdict(PRIOR_CENTRE), asdict(PRIOR_LOG_SPREAD)
    return _table(
        ("parameter", "meaning", "fitted", "prior", "prior's log spread"),
        (
            (name, meaning[name], _short(value), f"{centre[name]:g}", f"{spread[name]:g}")
            for name, value in asdict(found).items()
        ),
    )


def _errors(fits: FitErrors) -> str:
    def cells(name: str, pairs: Pairs) -> tuple[str, ...]:
        mean, low, high = np.exp([each([ratio for _, ratio in pairs]) for each in (np.mean, np.min, np.max)])
        return (
            name,
            str(len(pairs)),
            f"{mean:.3f}",
            f"{low:.2f} to {high:.2f}",
            f"{mean_absolute_error(pairs):.1%}",
        )

    lines = []
    for name, pairs in fits.named:
        lines.append(cells(f"**{name}**", pairs))
        if pairs in (fits.without_gpu, fits.without_gpu_and_design):
            groups = _grouped(pairs, lambda row: f"{row.gpu}, {row.design}, {row.precision.upper()}")
            lines += [cells(f"- {group}", members) for group, members in groups.items()]
    heading = ("", "rows", "published / predicted, geometric mean", "lowest to highest", "mean error")
    return _table(heading, lines)


def _bounds(rows: Sequence[PublishedLatency]) -> str:
    bounds = [row for row in rows if row.runtime == "pytorch"]
    pairs = tuple(zip(bounds, log_ratios(bounds, fit_parameters(rows)).tolist(), strict=True))
    lines = []
    for gpu, members in _grouped(pairs, by_gpu).items():
        ratios = np.exp([ratio for _, ratio in members])
        lines.append(
            (gpu, str(len(members)), *(f"{each(ratios):.2f}" for each in (np.min, np.median, np.max)))
        )
    return _table(("PyTorch / predicted", "rows", "lowest", "median", "highest"), lines)


def _intervals(fits: FitErrors) -> str:
    lines = []
    for name, pairs in fits.interval_sources:
        low, high = compute_interval(pairs)
        lines.append(
            (f"**{name}**", f"{low:.3f} to {high:.3f}", f"{total_coverage_by_other_gpus(pairs):.1%}")
        )
        lines += [(f"- {gpu}", "", f"{share:.1%}") for gpu, share in coverage_by_other_gpus(pairs).items()]
    return _table(("", "factors", "rows inside factors from the other GPUs"), lines)


def _distance(fits: FitErrors) -> str:
    in_sample = dict(fits.in_sample)
    lines = []

    def add(fitted_to: str, asked_for: str, pairs: Pairs, doublings: float) -> None:
        there, here = (
            math.sqrt(np.mean(np.square(ratios)))
            for ratios in ([ratio for _, ratio in pairs], [in_sample[row] for row, _ in pairs])
        )
        lines.append((fitted_to, asked_for, f"{there / here:.2f}", f"{doublings:.1f}"))

    for limit in (32, 16, 8):
        beyond = extrapolation_errors(fits.rows, lambda row: row.batch, limit)
        pairs = tuple(pair for pair in beyond if pair[0].batch == LARGEST_BATCH)
        doublings = math.log2(LARGEST_BATCH / limit)
        add(f"batch up to {limit}", f"batch {LARGEST_BATCH}", pairs, doublings)
    for above, limits_g in ((True, (10, 5, 2.5)), (False, (5, 10))):
        for limit_g in limits_g:
            pairs = extrapolation_errors(fits.rows, lambda row: row.macs / 1e9, limit_g, above=above)
            doublings = float(np.mean([abs(math.log2(row.macs / 1e9 / limit_g)) for row, _ in pairs]))
            sides = ("up to", "above") if above else ("from", "below")
            add(f"networks {sides[0]} {limit_g:g} G MACs", f"those {sides[1]}", pairs, doublings)
    heading = ("fitted to", "predicted", "rms log error relative to in sample", "doublings away")
    return _table(heading, lines)


def _points(pairs: Pairs) -> str:
    def cells(row: PublishedLatency, ratio: float) -> tuple[str, ...]:
        predicted_ms = row.latency_ms * math.exp(-ratio)
        return (
            row.gpu,
            row.network.upper(),
            row.precision.upper(),
            str(row.batch),
            f"{row.latency_ms:g} ms",
            f"{_short(predicted_ms)} ms",
            f"{predicted_ms / row.latency_ms - 1:+.0%}",
        )

    heading = ("GPU", "network", "precision", "batch", "published", "predicted", "off")
    return _table(heading, (cells(*pair) for pair in pairs))


def _short(value: float) -> str:
    """Format with three digits and no exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _grouped(pairs: Iterable[RowError], get_group: Callable[[PublishedLatency], str]) -> dict[str, Pairs]:
    groups: dict[str, Pairs] = {}
    for pair in pairs:
        groups[get_group(pair[0])] = (*groups.get(get_group(pair[0]), ()), pair)
    return groups


def draw_residuals_svg(pairs: Iterable[RowError]) -> str:
    """Return a figure of published / predicted against published latency per image, one panel per GPU."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "deploykit", "font.size": 9})
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    pairs = tuple(pairs)
    gpus = list(dict.fromkeys(row.gpu for row, _ in pairs))
    colours = {design: f"C{at}" for at, design in enumerate(dict.fromkeys(row.design for row, _ in pairs))}
    figure, panels = pyplot.subplots(1, len(gpus), figsize=(11, 3.2), sharey=True, layout="constrained")
    low, high = compute_interval(pairs)
    for panel, gpu in zip(panels, gpus, strict=True):
        panel.axhspan(low, high, color="0.92")
        panel.axhline(1, color="0.5", linewidth=0.8)
        for row, ratio in (pair for pair in pairs if pair[0].gpu == gpu):
            panel.plot(
                row.latency_ms / row.batch,
                math.exp(ratio),
                marker="o" if row.precision == "fp16" else "^",
                markersize=4,
                color=colours[row.design],
            )
        panel.set(title=gpu, xscale="log", yscale="log", xlabel="ms an image, published")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
    panels[0].set(ylabel="published / predicted", yticks=(ticks := (0.6, 0.8, 1, 1.25, 1.6)))
    panels[0].set_yticklabels([f"{tick:g}" for tick in ticks])
    panels[0].minorticks_off()
    for design, colour in colours.items():
        panels[-1].plot([], [], "s", color=colour, markersize=4, label=design)
    panels[-1].plot([], [], "o", color="0.3", markersize=4, label="FP16")
    panels[-1].plot([], [], "^", color="0.3", markersize=4, label="INT8")
    figure.legend(loc="outside right upper", frameon=False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    return text.getvalue()
