"""Which request rate meets a latency bound?"""

from collections.abc import Sequence

from deploykit.bench.record import Record
from deploykit.bench.server_scenario import SERVER_PERCENTILE
from deploykit.reporting.report.caveats import format_caveats
from deploykit.reporting.report.engine_facts import network_name
from deploykit.reporting.report.report_data import ReportData
from deploykit.reporting.report.section import Column, Section, Table, Trace
from deploykit.reporting.report.setup import Setup
from deploykit.reporting.report.text import join_words
from deploykit.reporting.report.traces import COLOURS, SYMBOLS, log_axis, scatter, series_opacity
from deploykit.stats.estimate import Estimate

ServerSeries = tuple[str, Setup, int]
"""Name of a network, its setup, and its largest batch."""


def section(data: ReportData) -> Section | None:
    """Return the highest rate that meets each bound, next to the engine's throughput without a bound."""
    records = data.filter_scenario("server")
    if not records:
        return None
    series: dict[ServerSeries, list[Record]] = {}
    for each in records:
        key = (network_name(each.engine), Setup.from_record(each), each.method.batch)
        series.setdefault(key, []).append(each)
    series = {key: sorted(group, key=_bound_ms) for key, group in series.items()}
    networks = list(dict.fromkeys(network_name(each.engine) for each in records))
    traces = tuple(_make_trace(key, group, data.setups, networks) for key, group in series.items())
    return Section(
        name="serving",
        title="Which request rate meets a latency bound?",
        findings=tuple(_find(key, group, data) for key, group in series.items()),
        traces=traces,
        layout={
            "xaxis": log_axis(f"bound on p{SERVER_PERCENTILE} latency, ms", traces, "x"),
            "yaxis": log_axis("images/s that meet it", traces, "y"),
        },
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="setup"),
                Column(title="bound, ms"),
                Column(title="batch"),
                Column(title="meets it, images/s", evidence="measured"),
                Column(title="misses it, images/s", evidence="measured"),
                Column(title=f"p{SERVER_PERCENTILE}, ms", evidence="measured"),
                Column(title="offline, images/s", evidence="measured"),
                Column(title="share of offline", evidence="measured"),
            ),
            rows=tuple(_make_row(each, data) for group in series.values() for each in group),
        ),
        notes=(
            "This is MLPerf's server scenario: images arrive at random, and latency counts from their "
            "arrival. The whisker ends at the lowest rate that was found to miss the bound. Offline is the "
            "highest throughput that was measured for the same engine at batches up to this one, without "
            "waiting for arrivals.",
        ),
    )


def _make_trace(
    key: ServerSeries, records: Sequence[Record], setups: Sequence[Setup], networks: Sequence[str]
) -> Trace:
    network, setup, batch = key
    index = networks.index(network)
    rates = [each.images_per_s for each in records]
    return scatter(
        (network, *setup.title_parts(setups), *(() if batch == 1 else (f"batch up to {batch}",))),
        [_bound_ms(each) for each in records],
        [rate.value for rate in rates],
        colour=COLOURS[setups.index(setup) % len(COLOURS)],
        symbol=SYMBOLS[index % len(SYMBOLS)],
        opacity=series_opacity(index, len(networks)),
        errors_y=rates,
        hover_lines=[
            (
                f"{network}, {setup.title(setups)}, batch up to {batch}",
                f"{rate.value:.4g} images/s meet {_bound_ms(each):g} ms, measured",
            )
            for each, rate in zip(records, rates, strict=True)
        ],
    )


def _bound_ms(record: Record) -> float:
    return record.method.max_latency_ms or 0.0


def _find_offline(record: Record, data: ReportData) -> Estimate | None:
    """Return the engine's best throughput at batches up to the server's largest; None if not measured."""
    rates = [
        each.images_per_s
        for each in data.filter_scenario("offline")
        if each.engine.sha256 == record.engine.sha256
        and Setup.from_record(each) == Setup.from_record(record)
        and each.method.batch <= record.method.batch
    ]
    return max(rates, key=lambda each: each.value, default=None)


def _find(key: ServerSeries, records: Sequence[Record], data: ReportData) -> str:
    network, setup, batch = key
    rates = [
        f"{each.images_per_s.value:.4g} images/s meet a p{SERVER_PERCENTILE} of {_bound_ms(each):g} ms"
        f"{_format_comparison(each, data)}"
        for each in records
    ]
    batches = "" if batch == 1 else f", batch up to {batch}"
    return f"{network}, {setup.title(data.setups)}{batches}: {join_words(rates)}.{format_caveats(records)}"


def _format_comparison(record: Record, data: ReportData) -> str:
    """Return ` (104 do not; 66 % of offline)`."""
    rate, offline = record.images_per_s, _find_offline(record, data)
    parts = [] if rate.high is None else [f"{rate.high:.4g} do not"]
    if offline is not None:
        parts.append(f"{100 * rate.value / offline.value:.0f} % of offline")
    return f" ({'; '.join(parts)})" if parts else ""


def _make_row(record: Record, data: ReportData) -> tuple[str, ...]:
    rate, offline = record.images_per_s, _find_offline(record, data)
    return (
        network_name(record.engine),
        Setup.from_record(record).title(data.setups),
        f"{_bound_ms(record):g}",
        f"up to {record.method.batch}",
        f"{rate.value:.4g}",
        "" if rate.high is None else f"{rate.high:.4g}",
        str(record.percentile_ms(SERVER_PERCENTILE)),
        "" if offline is None else str(offline),
        "" if offline is None else f"{100 * rate.value / offline.value:.0f} %",
    )
