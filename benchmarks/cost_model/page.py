"""docs/cost-model.md's tables and figure, made from the fits they are about."""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from tables import row as line

from cost_model.errors import (
    HeldOut,
    by_gpu,
    by_gpu_and_network,
    coverage_by_others,
    coverage_of_all_by_others,
    efficientnets,
    extrapolated,
    held_out,
    in_sample,
    interval,
    left_out_wholly,
    mean_error,
)
from cost_model.fit import PRIOR_CENTRE, PRIOR_LOG_SPREAD, fit, log_ratios
from cost_model.published import Row
from deploykit.planning.cost_model.fitted_model import Parameters

Pairs = tuple[HeldOut, ...]
LARGEST_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All fits the page is about.

    Attributes:
        known, left_gpu, left_network, left_both: each row under the fit to all, without its GPU, without its
            network on that GPU, without its GPU and all of its design.
    """

    rows: tuple[Row, ...]
    known: Pairs
    left_gpu: Pairs
    left_network: Pairs
    left_both: Pairs

    @property
    def named(self) -> tuple[tuple[str, Pairs], ...]:
        return (
            ("in sample", self.known),
            ("fitted without that GPU", self.left_gpu),
            ("fitted without that network on that GPU", self.left_network),
            ("fitted without that GPU and without any size of that network", self.left_both),
        )

    @property
    def behind_intervals(self) -> tuple[tuple[str, Pairs], ...]:
        return (
            (
                "EfficientNets where they were published, from fits without that network there",
                efficientnets(self.left_network),
            ),
            ("published families elsewhere, from fits without that GPU", self.left_gpu),
            ("other families and FP32, from fits without that GPU and that design", self.left_both),
        )


def gather(rows: Sequence[Row]) -> Evidence:
    """Fits, many times."""
    return Evidence(
        rows=tuple(rows),
        known=in_sample(rows),
        left_gpu=held_out(rows, by_gpu),
        left_network=held_out(rows, by_gpu_and_network),
        left_both=left_out_wholly(rows),
    )


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """The page with each table where its marks are: `<!-- name -->` and `<!-- end -->`."""
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, found, rest = page.partition(begin)
        if not found or end not in rest:
            raise SystemExit(f"the page has no place for the table of {name}")
        page = before + begin + table + end + rest.partition(end)[2]
    return page


def tables(evidence: Evidence) -> dict[str, str]:
    """Markdown, by what it is about."""
    return {
        "parameters": _parameters(fit(evidence.rows)),
        "errors": _errors(evidence),
        "bounds": _bounds(evidence.rows),
        "intervals": _intervals(evidence),
        "distance": _distance(evidence),
        "points": _points(efficientnets(evidence.left_gpu)),
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


def _errors(evidence: Evidence) -> str:
    def cells(name: str, pairs: Pairs) -> tuple[str, ...]:
        mean, low, high = np.exp([each([ratio for _, ratio in pairs]) for each in (np.mean, np.min, np.max)])
        return name, str(len(pairs)), f"{mean:.3f}", f"{low:.2f} to {high:.2f}", f"{mean_error(pairs):.1%}"

    lines = []
    for name, pairs in evidence.named:
        lines.append(cells(f"**{name}**", pairs))
        if pairs in (evidence.left_gpu, evidence.left_both):
            groups = _grouped(pairs, lambda row: f"{row.gpu}, {row.design}, {row.precision.upper()}")
            lines += [cells(f"- {group}", members) for group, members in groups.items()]
    heading = ("", "rows", "published / predicted, geometric mean", "lowest to highest", "mean error")
    return _table(heading, lines)


def _bounds(rows: Sequence[Row]) -> str:
    bounds = [row for row in rows if row.runtime == "pytorch"]
    pairs = tuple(zip(bounds, log_ratios(bounds, fit(rows)).tolist(), strict=True))
    lines = []
    for gpu, members in _grouped(pairs, by_gpu).items():
        ratios = np.exp([ratio for _, ratio in members])
        lines.append(
            (gpu, str(len(members)), *(f"{each(ratios):.2f}" for each in (np.min, np.median, np.max)))
        )
    return _table(("PyTorch's over predicted", "rows", "lowest", "median", "highest"), lines)


def _intervals(evidence: Evidence) -> str:
    lines = []
    for name, pairs in evidence.behind_intervals:
        low, high = interval(pairs)
        lines.append((f"**{name}**", f"{low:.3f} to {high:.3f}", f"{coverage_of_all_by_others(pairs):.1%}"))
        lines += [(f"- {gpu}", "", f"{share:.1%}") for gpu, share in coverage_by_others(pairs).items()]
    return _table(("", "factors", "rows inside factors from the other GPUs"), lines)


def _distance(evidence: Evidence) -> str:
    known = dict(evidence.known)
    lines = []

    def add(fitted_to: str, asked_for: str, pairs: Pairs, doublings: float) -> None:
        there, here = (
            math.sqrt(np.mean(np.square(ratios)))
            for ratios in ([ratio for _, ratio in pairs], [known[row] for row, _ in pairs])
        )
        lines.append((fitted_to, asked_for, f"{there / here:.2f}", f"{doublings:.1f}"))

    for limit in (32, 16, 8):
        beyond = extrapolated(evidence.rows, lambda row: row.batch, limit)
        pairs = tuple(pair for pair in beyond if pair[0].batch == LARGEST_BATCH)
        doublings = math.log2(LARGEST_BATCH / limit)
        add(f"batch up to {limit}", f"batch {LARGEST_BATCH}", pairs, doublings)
    for above, limits_g in ((True, (10, 5, 2.5)), (False, (5, 10))):
        for limit_g in limits_g:
            pairs = extrapolated(evidence.rows, lambda row: row.macs / 1e9, limit_g, above=above)
            doublings = float(np.mean([abs(math.log2(row.macs / 1e9 / limit_g)) for row, _ in pairs]))
            sides = ("up to", "above") if above else ("from", "below")
            add(f"networks {sides[0]} {limit_g:g} G MACs", f"those {sides[1]}", pairs, doublings)
    heading = ("fitted to", "asked for", "rms log error over that in sample", "doublings away")
    return _table(heading, lines)


def _points(pairs: Pairs) -> str:
    def cells(row: Row, ratio: float) -> tuple[str, ...]:
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
    """Three digits, and no exponent."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _grouped(pairs: Iterable[HeldOut], group_of: Callable[[Row], str]) -> dict[str, Pairs]:
    groups: dict[str, Pairs] = {}
    for pair in pairs:
        groups[group_of(pair[0])] = (*groups.get(group_of(pair[0]), ()), pair)
    return groups


def residuals_svg(pairs: Iterable[HeldOut]) -> str:
    """Published over predicted against the published latency of one image, a panel a GPU."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "deploykit", "font.size": 9})
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    pairs = tuple(pairs)
    gpus = list(dict.fromkeys(row.gpu for row, _ in pairs))
    colours = {design: f"C{at}" for at, design in enumerate(dict.fromkeys(row.design for row, _ in pairs))}
    figure, panels = pyplot.subplots(1, len(gpus), figsize=(11, 3.2), sharey=True, layout="constrained")
    low, high = interval(pairs)
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
