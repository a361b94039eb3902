"""Does latency follow the multiply-accumulates?"""

from collections.abc import Sequence
from itertools import groupby, pairwise

from deploykit.bench.record import Record
from deploykit.networks.scaling import format_phi
from deploykit.reporting.report.caveats import cautions, in_brackets, not_clearly
from deploykit.reporting.report.gather import Gathered, Setup, is_compound, network_name, setup_of
from deploykit.reporting.report.predicted import Predicted
from deploykit.reporting.report.section import Column, Section, Table, Trace, giga, joined
from deploykit.reporting.report.traces import COLOURS, GREY, log_axis, scatter
from deploykit.stats.estimate import Estimate, ratio_between


def section(gathered: Gathered, predicted: Sequence[Predicted]) -> Section | None:
    """Latency over work, phi by phi."""
    members = [each for each in gathered.single_stream() if is_compound(each.engine) and each.engine.macs]
    if not members and not predicted:
        return None
    setups = gathered.setups
    traces, findings, rows = [], [], []
    for setup in sorted({setup_of(each) for each in members}):
        own = [each for each in members if setup_of(each) == setup]
        traces.append(_measured(own, setup, setups))
        findings += _finding(own, setup.title(setups))
        rows += [_row(each, own[0], setup.title(setups)) for each in own]
    for index, (series, points) in enumerate(groupby(predicted, key=lambda each: each.series)):
        of_series = list(points)
        traces.append(_predicted(of_series, series, COLOURS[(len(setups) + index) % len(COLOURS)]))
        rows += [_predicted_row(each, of_series[0]) for each in of_series]
    if members:
        traces.append(_proportional(members, setup_of(members[0]).title(setups)))
    return Section(
        name="work",
        title="Does latency follow the multiply-accumulates?",
        findings=tuple(findings),
        traces=tuple(traces),
        layout={
            "xaxis": log_axis("multiply-accumulates an image, G", traces, "x"),
            "yaxis": log_axis("median latency at batch 1, ms", traces, "y"),
        },
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="runs on"),
                Column(title="MACs"),
                Column(title="latency, ms (interval)"),
                Column(title="ms per G MACs"),
                Column(title="over the smallest's"),
                Column(title="evidence"),
            ),
            rows=tuple(rows),
        ),
        notes=(
            "MACs are counted on what was compiled. Measured: the median, with a 95 % interval"
            + ("; predicted: the cost model's, with a 90 % interval." if predicted else "."),
        ),
    )


def _measured(records: Sequence[Record], setup: Setup, setups: Sequence[Setup]) -> Trace:
    medians = [each.percentile_ms(50) for each in records]
    return scatter(
        setup.parts(setups),
        [each.engine.macs / 1e9 for each in records],
        [each.value for each in medians],
        colour=COLOURS[setups.index(setup) % len(COLOURS)],
        errors_y=medians,
        told=[
            (
                f"{network_name(each.engine)}, {setup.title(setups)}",
                f"{giga(each.engine.macs)} MACs",
                f"p50 {median} ms, measured",
            )
            for each, median in zip(records, medians, strict=True)
        ],
    )


def _predicted(points: Sequence[Predicted], series: str, colour: str) -> Trace:
    return scatter(
        (series, "predicted"),
        [each.macs / 1e9 for each in points],
        [each.latency.latency_ms for each in points],
        colour=colour,
        dash="dot",
        symbol="circle-open",
        errors_y=[each.estimate for each in points],
        told=[(f"phi {format_phi(each.phi)}, {series}", f"{each.estimate} ms, predicted") for each in points],
    )


def _proportional(members: Sequence[Record], title: str) -> Trace:
    first, last = members[0], members[-1]
    per_mac = first.percentile_ms(50).value / first.engine.macs
    return scatter(
        (f"as the MACs, from {network_name(first.engine)}", title),
        [each.engine.macs / 1e9 for each in (first, last)],
        [per_mac * each.engine.macs for each in (first, last)],
        colour=GREY,
        mode="lines",
        dash="dash",
        width=1,
    )


def _finding(records: Sequence[Record], title: str) -> list[str]:
    if len(records) < 2:
        return []
    first, last = records[0], records[-1]
    ordered = sorted(records, key=_cost_of_value)
    cheapest, dearest = ordered[0], ordered[-1]
    doubtful = not_clearly(cheapest, records, _cost_ratio, _name)
    factor = _cost_ratio(cheapest, dearest)
    time = ratio_between(first.percentile_ms(50), last.percentile_ms(50))
    return [
        f"{title}: from {_name(first)} to {_name(last)} the work grows "
        f"{last.engine.macs / first.engine.macs:.3g}-fold and the median latency {time.value:.3g}-fold"
        f"{in_brackets(time)}.{_parting(records)} A multiply-accumulate is cheapest at {_name(cheapest)}"
        f"{f' ({joined(doubtful)} not clearly dearer)' if doubtful else ''} and dearest at {_name(dearest)}, "
        f"by a factor of {factor.value:.2f}{in_brackets(factor)}.{cautions(records)}"
    ]


def _parting(records: Sequence[Record]) -> str:
    """Where latency and work part most, in a sentence; nothing where they clearly part nowhere."""
    steps = [
        (one, other, _cost_ratio(one, other))
        for one, other in pairwise(records)
        if one.engine.macs < other.engine.macs and not _cost_ratio(one, other).contains(1)
    ]
    if not steps:
        return " Between neighbours the two part nowhere clearly."
    one, other, _ = max(steps, key=lambda step: max(step[2].value, 1 / step[2].value))
    time = ratio_between(one.percentile_ms(50), other.percentile_ms(50))
    work = other.engine.macs / one.engine.macs
    return (
        f" They part most from {_name(one)} to {_name(other)}: {work:.3g} times the work takes "
        f"{time.value:.3g} times the time{in_brackets(time)}."
    )


def _cost_ratio(one: Record, other: Record) -> Estimate:
    """What a multiply-accumulate of the other takes, over what one of the first does."""
    return ratio_between(one.percentile_ms(50), other.percentile_ms(50)).scaled(
        one.engine.macs / other.engine.macs
    )


def _cost_of_value(record: Record) -> float:
    """Milliseconds for a G of multiply-accumulates."""
    return record.percentile_ms(50).value / (record.engine.macs / 1e9)


def _name(record: Record) -> str:
    return network_name(record.engine)


def _row(record: Record, first: Record, title: str) -> tuple[str, ...]:
    return (
        _name(record),
        title,
        giga(record.engine.macs),
        str(record.percentile_ms(50)),
        f"{_cost_of_value(record):.2f}",
        f"{_cost_of_value(record) / _cost_of_value(first):.2f}",
        "measured",
    )


def _predicted_row(point: Predicted, first: Predicted) -> tuple[str, ...]:
    cost, first_cost = (each.latency.latency_ms / (each.macs / 1e9) for each in (point, first))
    return (
        f"phi {format_phi(point.phi)}",
        point.series,
        giga(point.macs),
        str(point.estimate),
        f"{cost:.2f}",
        f"{cost / first_cost:.2f}",
        "predicted",
    )
