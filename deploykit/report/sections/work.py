"""Does latency follow the multiply-accumulates?"""

from collections.abc import Sequence
from itertools import groupby

from deploykit.bench.record import Record
from deploykit.report.gather import Gathered, is_compound, network_name, setup_of
from deploykit.report.predicted import Predicted
from deploykit.report.section import (
    COLOURS,
    GREY,
    Column,
    Section,
    Table,
    Trace,
    giga,
    hover,
    log_axis,
    milliseconds,
    plain,
)
from deploykit.scaling import phi_label


def section(gathered: Gathered, predicted: Sequence[Predicted]) -> Section | None:
    """Latency over work, phi by phi."""
    members = [each for each in gathered.single_stream() if is_compound(each.engine) and each.engine.macs]
    if not members and not predicted:
        return None
    setups = sorted({setup_of(each) for each in members})
    traces, findings, rows = [], [], []
    for index, setup in enumerate(setups):
        own = [each for each in members if setup_of(each) == setup]
        title = setup.title(setups)
        traces.append(_measured(own, title, index))
        findings += _finding(own, title)
        rows += [_row(each, own[0], title) for each in own]
    for index, (series, points) in enumerate(groupby(predicted, key=lambda each: each.series)):
        of_series = list(points)
        traces.append(_predicted(of_series, series, len(setups) + index))
        rows += [_predicted_row(each, of_series[0]) for each in of_series]
    if members:
        traces.append(_proportional(members, setups[0].title(setups)))
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
                Column(title="of the first's"),
                Column(title="evidence"),
            ),
            rows=tuple(rows),
        ),
        notes=(
            "MACs are counted on what was compiled. Measured: the median, with a 95 % interval"
            + ("; predicted: the cost model's, with a 90 % interval." if predicted else "."),
        ),
    )


def _measured(records: Sequence[Record], title: str, index: int) -> Trace:
    medians = [each.percentile_ms(50) for each in records]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(title),
        "x": [each.engine.macs / 1e9 for each in records],
        "y": [each.value for each in medians],
        "error_y": {
            "type": "data",
            "array": [None if each.high is None else each.high - each.value for each in medians],
            "arrayminus": [None if each.low is None else each.value - each.low for each in medians],
            "thickness": 1,
        },
        "line": {"color": COLOURS[index % len(COLOURS)]},
        "hoverinfo": "text",
        "hovertext": [
            hover(
                f"{network_name(each.engine)}, {title}",
                f"{giga(each.engine.macs)} MACs",
                f"p50 {milliseconds(median.value)}, measured",
            )
            for each, median in zip(records, medians, strict=True)
        ],
    }


def _predicted(points: Sequence[Predicted], series: str, index: int) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(f"{series}, predicted"),
        "x": [each.macs / 1e9 for each in points],
        "y": [each.latency.latency_ms for each in points],
        "error_y": {
            "type": "data",
            "array": [each.latency.high_ms - each.latency.latency_ms for each in points],
            "arrayminus": [each.latency.latency_ms - each.latency.low_ms for each in points],
            "thickness": 1,
        },
        "line": {"color": COLOURS[index % len(COLOURS)], "dash": "dot"},
        "marker": {"symbol": "circle-open"},
        "hoverinfo": "text",
        "hovertext": [
            hover(
                f"phi {phi_label(each.phi)}, {series}", f"{milliseconds(each.latency.latency_ms)}, predicted"
            )
            for each in points
        ],
    }


def _proportional(members: Sequence[Record], title: str) -> Trace:
    first, last = members[0], members[-1]
    per_mac = first.percentile_ms(50).value / first.engine.macs
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(f"as the MACs, from {network_name(first.engine)}, {title}"),
        "x": [each.engine.macs / 1e9 for each in (first, last)],
        "y": [per_mac * each.engine.macs for each in (first, last)],
        "line": {"color": GREY, "dash": "dash", "width": 1},
        "hoverinfo": "skip",
    }


def _finding(records: Sequence[Record], title: str) -> list[str]:
    if len(records) < 2:
        return []
    first, last = records[0], records[-1]
    cost = [each.percentile_ms(50).value / each.engine.macs for each in records]
    work, time = (
        last.engine.macs / first.engine.macs,
        cost[-1] / cost[0] * last.engine.macs / first.engine.macs,
    )
    cheapest, dearest = (network_name(records[cost.index(extreme(cost))].engine) for extreme in (min, max))
    return [
        f"{title}: from {network_name(first.engine)} to {network_name(last.engine)} the work grows "
        f"{work:.3g}-fold and the median latency {time:.3g}-fold. A multiply-accumulate is cheapest at "
        f"{cheapest} and dearest at {dearest}, by a factor of {max(cost) / min(cost):.2f}."
    ]


def _row(record: Record, first: Record, title: str) -> tuple[str, ...]:
    median = record.percentile_ms(50)
    cost, first_cost = (each.percentile_ms(50).value / (each.engine.macs / 1e9) for each in (record, first))
    return (
        network_name(record.engine),
        title,
        giga(record.engine.macs),
        f"{median.value:.4g} ({median.low:.4g} to {median.high:.4g})",
        f"{cost:.2f}",
        f"{cost / first_cost:.2f}",
        "measured",
    )


def _predicted_row(point: Predicted, first: Predicted) -> tuple[str, ...]:
    latency = point.latency
    cost, first_cost = (each.latency.latency_ms / (each.macs / 1e9) for each in (point, first))
    return (
        f"phi {phi_label(point.phi)}",
        point.series,
        giga(point.macs),
        f"{latency.latency_ms:.4g} ({latency.low_ms:.4g} to {latency.high_ms:.4g})",
        f"{cost:.2f}",
        f"{cost / first_cost:.2f}",
        "predicted",
    )
