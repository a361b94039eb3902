"""Does latency follow the multiply-accumulates?"""

from collections.abc import Sequence
from itertools import groupby, pairwise

from deploykit.bench.record import Record
from deploykit.networks.scaling import format_phi
from deploykit.reporting.report.caveats import find_ties, format_caveats, format_interval
from deploykit.reporting.report.engine_facts import is_compound, network_name
from deploykit.reporting.report.predicted_members import PredictedMember
from deploykit.reporting.report.report_data import ReportData
from deploykit.reporting.report.section import Column, Section, Table, Trace
from deploykit.reporting.report.setup import Setup
from deploykit.reporting.report.text import format_giga, join_words
from deploykit.reporting.report.traces import COLOURS, GREY, scatter, work_latency_layout
from deploykit.stats.estimate import Estimate, ratio_between


def section(data: ReportData, predicted: Sequence[PredictedMember]) -> Section | None:
    """Return latency against work, phi by phi."""
    members = [each for each in data.filter_single_stream() if is_compound(each.engine) and each.engine.macs]
    if not members and not predicted:
        return None
    setups = data.setups
    traces, findings, rows = [], [], []
    for setup in sorted({Setup.from_record(each) for each in members}):
        records = [each for each in members if Setup.from_record(each) == setup]
        traces.append(_trace_measured(records, setup, setups))
        findings += _find(records, setup.title(setups))
        rows += [_measured_row(each, records[0], setup.title(setups)) for each in records]
    for index, (series, group) in enumerate(groupby(predicted, key=lambda each: each.series)):
        points = list(group)
        traces.append(_trace_predicted(points, series, COLOURS[(len(setups) + index) % len(COLOURS)]))
        rows += [_predicted_row(each, points[0]) for each in points]
    if members:
        traces.append(_trace_proportional(members, Setup.from_record(members[0]).title(setups)))
    return Section(
        name="work",
        title="Does latency follow the multiply-accumulates?",
        findings=tuple(findings),
        traces=tuple(traces),
        layout=work_latency_layout(traces),
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="setup"),
                Column(title="MACs"),
                Column(title="latency, ms (interval)"),
                Column(title="ms per G MACs"),
                Column(title="relative to the smallest"),
                Column(title="evidence"),
            ),
            rows=tuple(rows),
        ),
        notes=(
            "MACs are counted in the compiled engine. Measured latency is the median with a 95 % interval"
            + ("; predicted latency has the cost model's 90 % interval." if predicted else "."),
        ),
    )


def _trace_measured(records: Sequence[Record], setup: Setup, setups: Sequence[Setup]) -> Trace:
    medians = [each.percentile_ms(50) for each in records]
    return scatter(
        setup.title_parts(setups),
        [each.engine.macs / 1e9 for each in records],
        [each.value for each in medians],
        colour=COLOURS[setups.index(setup) % len(COLOURS)],
        errors_y=medians,
        hover_lines=[
            (
                f"{_name(each)}, {setup.title(setups)}",
                f"{format_giga(each.engine.macs)} MACs",
                f"p50 {median} ms, measured",
            )
            for each, median in zip(records, medians, strict=True)
        ],
    )


def _trace_predicted(points: Sequence[PredictedMember], series: str, colour: str) -> Trace:
    return scatter(
        (series, "predicted"),
        [each.macs / 1e9 for each in points],
        [each.latency.latency_ms for each in points],
        colour=colour,
        dash="dot",
        symbol="circle-open",
        errors_y=[each.estimate for each in points],
        hover_lines=[
            (f"phi {format_phi(each.phi)}, {series}", f"{each.estimate} ms, predicted") for each in points
        ],
    )


def _trace_proportional(members: Sequence[Record], title: str) -> Trace:
    """Return a line along which latency is proportional to work."""
    first, last = members[0], members[-1]
    per_mac = first.percentile_ms(50).value / first.engine.macs
    return scatter(
        (f"proportional to MACs, from {_name(first)}", title),
        [each.engine.macs / 1e9 for each in (first, last)],
        [per_mac * each.engine.macs for each in (first, last)],
        colour=GREY,
        mode="lines",
        dash="dash",
        width=1,
    )


def _find(records: Sequence[Record], title: str) -> list[str]:
    if len(records) < 2:
        return []
    first, last = records[0], records[-1]
    ordered = sorted(records, key=_ms_per_giga)
    cheapest, dearest = ordered[0], ordered[-1]
    ties = find_ties(cheapest, records, _cost_ratio, _name)
    tied = f" ({join_words(ties)} not clearly more expensive)" if ties else ""
    factor = _cost_ratio(cheapest, dearest)
    time = ratio_between(first.percentile_ms(50), last.percentile_ms(50))
    return [
        f"{title}: from {_name(first)} to {_name(last)} the work grows "
        f"{last.engine.macs / first.engine.macs:.3g}-fold and the median latency {time.value:.3g}-fold"
        f"{format_interval(time)}.{_find_divergence(records)} A multiply-accumulate is cheapest at "
        f"{_name(cheapest)}{tied} and most expensive at {_name(dearest)}, "
        f"by a factor of {factor.value:.2f}{format_interval(factor)}.{format_caveats(records)}"
    ]


def _find_divergence(records: Sequence[Record]) -> str:
    """Return a sentence about the step at which latency and work diverge most."""
    steps = [
        (one, other, _cost_ratio(one, other))
        for one, other in pairwise(records)
        if one.engine.macs < other.engine.macs and not _cost_ratio(one, other).contains(1)
    ]
    if not steps:
        return " From one network to the next, latency and work do not clearly diverge."
    one, other, _ = max(steps, key=lambda step: max(step[2].value, 1 / step[2].value))
    time = ratio_between(one.percentile_ms(50), other.percentile_ms(50))
    work = other.engine.macs / one.engine.macs
    return (
        f" They diverge most from {_name(one)} to {_name(other)}: {work:.3g} times the work takes "
        f"{time.value:.3g} times as long{format_interval(time)}."
    )


def _cost_ratio(one: Record, other: Record) -> Estimate:
    """Return the time of a multiply-accumulate in the other network relative to the first."""
    return ratio_between(one.percentile_ms(50), other.percentile_ms(50)).scaled(
        one.engine.macs / other.engine.macs
    )


def _ms_per_giga(record: Record) -> float:
    return record.percentile_ms(50).value / (record.engine.macs / 1e9)


def _name(record: Record) -> str:
    return network_name(record.engine)


def _measured_row(record: Record, first: Record, title: str) -> tuple[str, ...]:
    return (
        _name(record),
        title,
        format_giga(record.engine.macs),
        str(record.percentile_ms(50)),
        f"{_ms_per_giga(record):.2f}",
        f"{_ms_per_giga(record) / _ms_per_giga(first):.2f}",
        "measured",
    )


def _predicted_row(point: PredictedMember, first: PredictedMember) -> tuple[str, ...]:
    cost, first_cost = (each.latency.latency_ms / (each.macs / 1e9) for each in (point, first))
    return (
        f"phi {format_phi(point.phi)}",
        point.series,
        format_giga(point.macs),
        str(point.estimate),
        f"{cost:.2f}",
        f"{cost / first_cost:.2f}",
        "predicted",
    )
