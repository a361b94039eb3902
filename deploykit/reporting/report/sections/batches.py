"""How much throughput does a larger batch bring?"""

from collections.abc import Mapping, Sequence

from deploykit.bench.record import Record
from deploykit.reporting.report.caveats import find_ties, format_caveats, format_interval
from deploykit.reporting.report.engine_facts import network_name
from deploykit.reporting.report.report_data import ReportData
from deploykit.reporting.report.section import Column, Section, Table, Trace
from deploykit.reporting.report.setup import Setup
from deploykit.reporting.report.text import join_words
from deploykit.reporting.report.traces import (
    COLOURS,
    MAX_VISIBLE,
    SYMBOLS,
    log_axis,
    scatter,
    series_opacity,
)
from deploykit.stats.estimate import Estimate, ratio_between

BatchSeries = tuple[str, Setup]
"""Name of a network, and its setup."""


def section(data: ReportData) -> Section | None:
    """Return throughput by batch, for networks measured at several batch sizes."""
    series = _group_by_series(data)
    if not series:
        return None
    setups_shown = sorted({setup for _, setup in series})
    networks = list(dict.fromkeys(network for network, _ in series))
    batches = sorted({record.method.batch for records in series.values() for record in records})
    only = setups_shown[0] if len(series) > MAX_VISIBLE else None
    traces = tuple(
        _make_trace(key, records, data.setups, networks, visible=only in (None, key[1]))
        for key, records in series.items()
    )
    return Section(
        name="batches",
        title="How much throughput does a larger batch bring?",
        findings=tuple(_find(setup, data.setups, series) for setup in setups_shown),
        traces=traces,
        layout={
            "xaxis": {
                "title": {"text": "batch"},
                "type": "log",
                "tickvals": batches,
                "ticktext": list(map(str, batches)),
            },
            "yaxis": log_axis("images/s", traces, "y"),
        },
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="setup"),
                *(Column(title=f"images/s at {batch}", evidence="measured") for batch in batches),
                Column(title="best batch", evidence="measured"),
            ),
            rows=tuple(_make_row(key, records, data.setups, batches) for key, records in series.items()),
        ),
        notes=(
            "This is MLPerf's offline scenario: batches follow each other without a pause. Batches in "
            "parentheses are not clearly worse than the best one.",
            *describe_hidden(only, data.setups),
        ),
    )


def describe_hidden(only: Setup | None, setups: Sequence[Setup]) -> tuple[str, ...]:
    """Return a note if only one setup is visible at first."""
    if only is None:
        return ()
    return (f"Only {only.title(setups)} is visible at first. Click the legend to show the other series.",)


def _group_by_series(data: ReportData) -> dict[BatchSeries, list[Record]]:
    """Return the offline records of each network and setup that has several, in rising order of batch."""
    series: dict[BatchSeries, list[Record]] = {}
    for record in data.filter_scenario("offline"):
        series.setdefault((network_name(record.engine), Setup.from_record(record)), []).append(record)
    return {
        key: sorted(records, key=lambda each: each.method.batch)
        for key, records in series.items()
        if len(records) > 1
    }


def _make_trace(
    key: BatchSeries,
    records: Sequence[Record],
    setups: Sequence[Setup],
    networks: Sequence[str],
    *,
    visible: bool,
) -> Trace:
    network, setup = key
    index = networks.index(network)
    rates = [each.images_per_s for each in records]
    return scatter(
        (network, *setup.title_parts(setups)),
        [each.method.batch for each in records],
        [each.value for each in rates],
        colour=COLOURS[setups.index(setup) % len(COLOURS)],
        symbol=SYMBOLS[index % len(SYMBOLS)],
        opacity=series_opacity(index, len(networks)),
        visible=visible,
        errors_y=rates,
        hover_lines=[
            (
                f"{network}, {setup.title(setups)}",
                f"batch {each.method.batch}",
                f"{rate} images/s, measured",
            )
            for each, rate in zip(records, rates, strict=True)
        ],
    )


def _find(setup: Setup, setups: Sequence[Setup], series: Mapping[BatchSeries, Sequence[Record]]) -> str:
    by_network = {network: records for (network, its_setup), records in series.items() if its_setup == setup}
    gains = {network: _rate_ratio(records[0], _find_best(records)) for network, records in by_network.items()}
    clear = {network: gain for network, gain in gains.items() if gain.low is not None and gain.low > 1}
    increases = [
        f"{clear[network].value:.2f} times{format_interval(clear[network])} for {network} at batch "
        f"{_find_best(by_network[network]).method.batch}"
        for network in sorted(clear, key=lambda network: -clear[network].value)
    ]
    unclear = [network for network in by_network if network not in clear]
    clauses = [f"a larger batch increases images/s {join_words(increases)}"] if increases else []
    if unclear:
        clauses.append(f"no batch is clearly better than the smallest for {join_words(unclear)}")
    runs = [each for records in by_network.values() for each in records]
    return f"{setup.title(setups)}: {'; '.join(clauses)}.{format_caveats(runs)}"


def _find_best(records: Sequence[Record]) -> Record:
    return max(records, key=lambda each: each.images_per_s.value)


def _rate_ratio(one: Record, other: Record) -> Estimate:
    return ratio_between(one.images_per_s, other.images_per_s)


def _make_row(
    key: BatchSeries, records: Sequence[Record], setups: Sequence[Setup], batches: Sequence[int]
) -> tuple[str, ...]:
    network, setup = key
    by_batch = {each.method.batch: each for each in records}
    best = _find_best(records)
    ties = find_ties(best, records, _rate_ratio, lambda each: str(each.method.batch))
    return (
        network,
        setup.title(setups),
        *(str(by_batch[batch].images_per_s) if batch in by_batch else "" for batch in batches),
        f"{best.method.batch} ({', '.join(ties)})" if ties else str(best.method.batch),
    )
