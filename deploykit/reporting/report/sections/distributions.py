"""How consistent is the latency?"""

from collections.abc import Sequence

import numpy as np

from deploykit.bench.record import PERCENTILES, Record
from deploykit.reporting.report.caveats import format_caveats, format_interval
from deploykit.reporting.report.engine_facts import network_name, single_axis
from deploykit.reporting.report.report_data import ReportData
from deploykit.reporting.report.section import Column, Section, Table, Trace
from deploykit.reporting.report.sections.batches import describe_hidden
from deploykit.reporting.report.setup import Setup
from deploykit.reporting.report.text import join_words
from deploykit.reporting.report.traces import COLOURS, DASHES, MAX_VISIBLE, scatter, series_opacity
from deploykit.stats.estimate import ratio_between
from deploykit.stats.latency_percentiles import required_samples

_CURVE_POINTS = 60
_TICKS = {"50 %": 2, "75 %": 4, "90 %": 10, "95 %": 20, "99 %": 100, "99.9 %": 1000, "99.99 %": 10_000}


def section(data: ReportData) -> Section | None:
    """Return the percentiles of latency relative to the median."""
    records = data.filter_single_stream()
    if not records:
        return None
    setups = data.setups
    drawn = [each for each in records if single_axis(each.engine) is None] or list(records)
    networks = list(dict.fromkeys(network_name(each.engine) for each in drawn))
    only = min(map(Setup.from_record, drawn)) if len(drawn) > MAX_VISIBLE else None
    return Section(
        name="distributions",
        title="How consistent is the latency?",
        findings=_find(records, setups),
        traces=tuple(
            _make_trace(each, setups, networks, visible=only in (None, Setup.from_record(each)))
            for each in drawn
        ),
        layout={
            "xaxis": {
                "title": {"text": "percentile"},
                "type": "log",
                "tickvals": list(_TICKS.values()),
                "ticktext": list(_TICKS),
            },
            "yaxis": {"title": {"text": "latency relative to the median"}},
        },
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="setup"),
                *(Column(title=f"p{percent}, ms", evidence="measured") for percent in PERCENTILES),
                Column(title="slowest, ms", evidence="measured"),
                Column(title="calls"),
                Column(title="remarks"),
            ),
            rows=tuple(_make_row(each, setups) for each in records),
        ),
        notes=(
            "A curve ends where fewer than ten calls took longer: at 90 % for 100 calls, at 99 % for 1,000.",
            f"~ marks a percentile with too few calls: p90 needs {required_samples(90)}, "
            f"p99 {required_samples(99):,}.",
            *(
                ("Networks scaled along one axis are in the table only.",)
                if len(drawn) < len(records)
                else ()
            ),
            *describe_hidden(only, setups),
        ),
    )


def _make_trace(record: Record, setups: Sequence[Setup], networks: Sequence[str], *, visible: bool) -> Trace:
    network, setup = network_name(record.engine), Setup.from_record(record)
    index = networks.index(network)
    one_in, latency_ms = _make_curve(record)
    median_ms = record.percentile_ms(50).value
    return scatter(
        (network, *setup.title_parts(setups)),
        one_in,
        [each / median_ms for each in latency_ms],
        colour=COLOURS[setups.index(setup) % len(COLOURS)],
        mode="lines",
        dash=DASHES[index % len(DASHES)],
        opacity=series_opacity(index, len(networks)),
        visible=visible,
        hover_lines=[
            (
                f"{network}, {setup.title(setups)}",
                f"{100 * (1 - 1 / one):.4g} % within {each:.4g} ms, measured",
            )
            for one, each in zip(one_in, latency_ms, strict=True)
        ],
    )


def _make_curve(record: Record) -> tuple[list[float], list[float]]:
    """Return N and the milliseconds that one of N calls exceeds, evenly spaced on a logarithmic axis.

    The curve ends where too few calls lie beyond, but never before the median.
    """
    ordered = np.sort(record.samples)
    one_in = len(ordered) / (len(ordered) - np.arange(len(ordered)) - 0.5)
    count = max(int(np.searchsorted(one_in, max(2.0, len(ordered) / 10), side="right")), 1)
    spaced = np.geomspace(one_in[0], one_in[count - 1], _CURVE_POINTS)
    at = np.unique(np.searchsorted(one_in, spaced).clip(0, count - 1))
    return [float(each) for each in one_in[at]], [float(each) for each in ordered[at]]


def _find(records: Sequence[Record], setups: Sequence[Setup]) -> tuple[str, ...]:
    findings = []
    for setup in sorted({Setup.from_record(each) for each in records}):
        runs = [each for each in records if Setup.from_record(each) == setup]
        ratios = {
            network_name(each.engine): ratio_between(each.percentile_ms(50), each.percentile_ms(90))
            for each in runs
        }
        least, most = (extreme(ratios, key=lambda name: ratios[name].value) for extreme in (min, max))
        spreads = [
            f"{ratios[name].value:.2f} times the median{format_interval(ratios[name])} for {name}"
            for name in dict.fromkeys((least, most))
        ]
        findings.append(f"{setup.title(setups)}: p90 is {join_words(spreads)}.{format_caveats(runs)}")
    return tuple(findings)


def _make_row(record: Record, setups: Sequence[Setup]) -> tuple[str, ...]:
    count = len(record.latency_ms)
    return (
        network_name(record.engine),
        Setup.from_record(record).title(setups),
        *(
            f"{'~' if count < required_samples(percent) else ''}{record.percentile_ms(percent)}"
            for percent in PERCENTILES
        ),
        f"{max(record.latency_ms):.4g}",
        str(count),
        " ".join(record.run_caveats),
    )
