"""How even is the latency?"""

from collections.abc import Sequence

import numpy as np

from deploykit.bench.record import PERCENTILES, Record
from deploykit.reporting.report.caveats import cautions, in_brackets
from deploykit.reporting.report.gather import Gathered, Setup, axis_of_engine, network_name, setup_of
from deploykit.reporting.report.section import Column, Section, Table, Trace
from deploykit.reporting.report.sections.batches import hidden_note
from deploykit.reporting.report.traces import COLOURS, DASHES, MOST_SHOWN, scatter, shade
from deploykit.stats.estimate import ratio_between
from deploykit.stats.latency_percentiles import required_samples

_POINTS = 60  # of a curve
_TICKS = {"50 %": 2, "75 %": 4, "90 %": 10, "95 %": 20, "99 %": 100, "99.9 %": 1000, "99.99 %": 10_000}


def section(gathered: Gathered) -> Section | None:
    """Percentiles of latency, each over its median."""
    records = gathered.single_stream()
    if not records:
        return None
    setups = gathered.setups
    drawn = [each for each in records if axis_of_engine(each.engine) is None] or list(records)
    networks = list(dict.fromkeys(network_name(each.engine) for each in drawn))
    first = min(map(setup_of, drawn)) if len(drawn) > MOST_SHOWN else None
    return Section(
        name="distributions",
        title="How even is the latency?",
        findings=_findings(records, setups),
        traces=tuple(_trace(each, setups, networks, shown=first in (None, setup_of(each))) for each in drawn),
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
            "A curve ends where fewer than ten calls took longer: at 90 % of 100 calls, at 99 % of 1,000.",
            f"~ marks a percentile of fewer calls than it takes: {required_samples(90)} for p90, "
            f"{required_samples(99):,} for p99.",
            *(
                ("Networks stretched along one axis are in the table alone.",)
                if len(drawn) < len(records)
                else ()
            ),
            *hidden_note(first, setups),
        ),
    )


def _trace(record: Record, setups: Sequence[Setup], networks: Sequence[str], *, shown: bool) -> Trace:
    network, setup = network_name(record.engine), setup_of(record)
    at = networks.index(network)
    one_in, latency_ms = _curve(record)
    median_ms = record.percentile_ms(50).value
    return scatter(
        (network, *setup.parts(setups)),
        one_in,
        [each / median_ms for each in latency_ms],
        colour=COLOURS[setups.index(setup) % len(COLOURS)],
        mode="lines",
        dash=DASHES[at % len(DASHES)],
        opacity=shade(at, len(networks)),
        shown=shown,
        told=[
            (
                f"{network}, {setup.title(setups)}",
                f"{100 * (1 - 1 / one):.4g} % within {each:.4g} ms, measured",
            )
            for one, each in zip(one_in, latency_ms, strict=True)
        ],
    )


def _curve(record: Record) -> tuple[list[float], list[float]]:
    """Of N calls, one takes longer than so many milliseconds; at even distances on a logarithmic axis.

    As far as there are calls enough beyond, and to the median at least.
    """
    ordered = np.sort(record.samples)
    one_in = len(ordered) / (len(ordered) - np.arange(len(ordered)) - 0.5)
    enough = max(int(np.searchsorted(one_in, max(2.0, len(ordered) / 10), side="right")), 1)
    wanted = np.geomspace(one_in[0], one_in[enough - 1], _POINTS)
    at = np.unique(np.searchsorted(one_in, wanted).clip(0, enough - 1))
    return [float(each) for each in one_in[at]], [float(each) for each in ordered[at]]


def _findings(records: Sequence[Record], setups: Sequence[Setup]) -> tuple[str, ...]:
    found = []
    for setup in sorted({setup_of(each) for each in records}):
        own = [each for each in records if setup_of(each) == setup]
        ratios = {
            network_name(each.engine): ratio_between(each.percentile_ms(50), each.percentile_ms(90))
            for each in own
        }
        least, most = (extreme(ratios, key=lambda name: ratios[name].value) for extreme in (min, max))
        said = " to ".join(
            f"{ratios[name].value:.2f}{in_brackets(ratios[name])}, {name},"
            for name in dict.fromkeys((least, most))
        )
        found.append(f"{setup.title(setups)}: p90 is {said} times the median.{cautions(own)}")
    return tuple(found)


def _row(record: Record, setups: Sequence[Setup]) -> tuple[str, ...]:
    count = len(record.latency_ms)
    return (
        network_name(record.engine),
        setup_of(record).title(setups),
        *(
            f"{'~' if count < required_samples(percent) else ''}{record.percentile_ms(percent)}"
            for percent in PERCENTILES
        ),
        f"{max(record.latency_ms):.4g}",
        str(count),
        " ".join(record.run_caveats),
    )
