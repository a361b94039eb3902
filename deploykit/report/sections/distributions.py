"""How even is the latency?"""

from collections.abc import Sequence

import numpy as np

from deploykit.bench.record import PERCENTILES, Record
from deploykit.bench.statistics import samples_for
from deploykit.report.gather import Gathered, Setup, axis_of_engine, network_name, setup_of
from deploykit.report.section import COLOURS, DASHES, Column, Section, Table, Trace, hover, plain

_POINTS = 60  # of a curve
_TICKS = {"50 %": 2, "90 %": 10, "99 %": 100, "99.9 %": 1000, "99.99 %": 10_000}


def section(gathered: Gathered) -> Section | None:
    """Percentiles of latency, each over its median."""
    records = gathered.single_stream()
    if not records:
        return None
    setups = sorted({setup_of(each) for each in records})
    drawn = [each for each in records if axis_of_engine(each.engine) is None] or records
    networks = list(dict.fromkeys(network_name(each.engine) for each in drawn))
    return Section(
        name="distributions",
        title="How even is the latency?",
        findings=_findings(records, setups),
        traces=tuple(_trace(each, setups, networks) for each in drawn),
        layout={
            "xaxis": {
                "title": {"text": "percentile"},
                "type": "log",
                "tickvals": list(_TICKS.values()),
                "ticktext": list(_TICKS),
            },
            "yaxis": {"title": {"text": "latency over its median"}},
        },
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="runs on"),
                *(Column(title=f"p{percent}, ms", evidence="measured") for percent in PERCENTILES),
                Column(title="slowest, ms", evidence="measured"),
                Column(title="calls"),
                Column(title="to know"),
            ),
            rows=tuple(_row(each, setups) for each in records),
        ),
        notes=(
            f"~ marks a percentile of fewer calls than it takes: {samples_for(90)} for p90, "
            f"{samples_for(99):,} for p99.",
        ),
    )


def _trace(record: Record, setups: Sequence[Setup], networks: Sequence[str]) -> Trace:
    network, setup = network_name(record.engine), setup_of(record)
    title = f"{network}, {setup.title(setups)}"
    one_in, latency_ms = _curve(record)
    median_ms = record.percentile_ms(50).value
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(title),
        "visible": True if setup == setups[0] else "legendonly",
        "x": one_in,
        "y": [each / median_ms for each in latency_ms],
        "line": {
            "color": COLOURS[networks.index(network) % len(COLOURS)],
            "dash": DASHES[(setups.index(setup) + networks.index(network) // len(COLOURS)) % len(DASHES)],
        },
        "hoverinfo": "text",
        "hovertext": [
            hover(title, f"{100 * (1 - 1 / one):.4g} % within {each:.4g} ms, measured")
            for one, each in zip(one_in, latency_ms, strict=True)
        ],
    }


def _curve(record: Record) -> tuple[list[float], list[float]]:
    """Of N calls, one takes longer than so many milliseconds; at even distances on a logarithmic axis."""
    ordered = np.sort(record.samples)
    one_in = len(ordered) / (len(ordered) - np.arange(len(ordered)) - 0.5)
    wanted = np.geomspace(one_in[0], one_in[-1], _POINTS)
    at = np.unique(np.searchsorted(one_in, wanted).clip(0, len(ordered) - 1))
    return [float(each) for each in one_in[at]], [float(each) for each in ordered[at]]


def _findings(records: Sequence[Record], setups: Sequence[Setup]) -> tuple[str, ...]:
    found = []
    for setup in setups:
        own = [each for each in records if setup_of(each) == setup]
        ratios = {
            network_name(each.engine): each.percentile_ms(90).value / each.percentile_ms(50).value
            for each in own
        }
        least, most = (extreme(ratios, key=lambda name: ratios[name]) for extreme in (min, max))
        found.append(
            f"{setup.title(setups)}: p90 is {ratios[least]:.2f} ({least}) to {ratios[most]:.2f} ({most}) "
            "times the median."
        )
    return tuple(found)


def _row(record: Record, setups: Sequence[Setup]) -> tuple[str, ...]:
    count = len(record.latency_ms)
    return (
        network_name(record.engine),
        setup_of(record).title(setups),
        *(
            f"{'~' if count < samples_for(percent) else ''}{record.percentile_ms(percent).value:.4g}"
            for percent in PERCENTILES
        ),
        f"{max(record.latency_ms):.4g}",
        str(count),
        " ".join(each for each in record.remarks if "is rough" not in each),
    )
