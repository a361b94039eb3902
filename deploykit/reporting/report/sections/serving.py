"""What rate of requests holds a bound on latency?"""

from collections.abc import Sequence

from deploykit.bench.record import Record
from deploykit.bench.server_scenario import SERVER_PERCENTILE
from deploykit.reporting.report.caveats import cautions
from deploykit.reporting.report.gather import Gathered, Setup, network_name, setup_of
from deploykit.reporting.report.section import Column, Section, Table, Trace, joined
from deploykit.reporting.report.traces import COLOURS, SYMBOLS, log_axis, scatter, shade
from deploykit.stats.estimate import Estimate

Series = tuple[str, Setup, int]


def section(gathered: Gathered) -> Section | None:
    """The highest rate over the bound it holds, beside the throughput of the same engine without one."""
    records = gathered.of_scenario("server")
    if not records:
        return None
    series: dict[Series, list[Record]] = {}
    for each in records:
        key = (network_name(each.engine), setup_of(each), each.method.batch)
        series.setdefault(key, []).append(each)
    series = {key: sorted(own, key=_bound_ms) for key, own in series.items()}
    networks = list(dict.fromkeys(network_name(each.engine) for each in records))
    traces = tuple(_trace(key, own, gathered.setups, networks) for key, own in series.items())
    return Section(
        name="serving",
        title="What rate of requests holds a bound on latency?",
        findings=tuple(_finding(key, own, gathered) for key, own in series.items()),
        traces=traces,
        layout={
            "xaxis": log_axis(f"bound on p{SERVER_PERCENTILE} of latency, ms", traces, "x"),
            "yaxis": log_axis("images/s that hold it", traces, "y"),
        },
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="runs on"),
                Column(title="bound, ms"),
                Column(title="at once"),
                Column(title="holds, images/s", evidence="measured"),
                Column(title="does not hold", evidence="measured"),
                Column(title=f"p{SERVER_PERCENTILE} there, ms", evidence="measured"),
                Column(title="offline, images/s", evidence="measured"),
                Column(title="of that", evidence="measured"),
            ),
            rows=tuple(_row(each, gathered) for own in series.values() for each in own),
        ),
        notes=(
            "MLPerf's server scenario: images arrive at random, and each one's latency counts from then. The "
            "whisker goes up to the lowest rate that was found not to hold. Offline: the most that the same "
            "engine was measured to answer at batches up to that, when nothing waits for an arrival.",
        ),
    )


def _trace(key: Series, records: Sequence[Record], setups: Sequence[Setup], networks: Sequence[str]) -> Trace:
    network, setup, batch = key
    at = networks.index(network)
    rates = [each.images_per_s for each in records]
    return scatter(
        (network, *setup.parts(setups), *(() if batch == 1 else (f"up to {batch} at once",))),
        [_bound_ms(each) for each in records],
        [rate.value for rate in rates],
        colour=COLOURS[setups.index(setup) % len(COLOURS)],
        symbol=SYMBOLS[at % len(SYMBOLS)],
        opacity=shade(at, len(networks)),
        errors_y=rates,
        told=[
            (
                f"{network}, {setup.title(setups)}, up to {batch} at once",
                f"{rate.value:.4g} images/s hold {_bound_ms(each):g} ms, measured",
            )
            for each, rate in zip(records, rates, strict=True)
        ],
    )


def _bound_ms(record: Record) -> float:
    return record.method.max_latency_ms or 0.0


def _offline(record: Record, gathered: Gathered) -> Estimate | None:
    """The best throughput of that engine, at batches as large as the server may make."""
    rates = [
        each.images_per_s
        for each in gathered.of_scenario("offline")
        if each.engine.sha256 == record.engine.sha256
        and setup_of(each) == setup_of(record)
        and each.method.batch <= record.method.batch
    ]
    return max(rates, key=lambda each: each.value, default=None)


def _finding(key: Series, records: Sequence[Record], gathered: Gathered) -> str:
    network, setup, batch = key
    told = [
        f"{each.images_per_s.value:.4g} images/s hold a p{SERVER_PERCENTILE} of {_bound_ms(each):g} ms"
        f"{_aside(each, gathered)}"
        for each in records
    ]
    at_once = "" if batch == 1 else f", up to {batch} at once"
    return f"{network}, {setup.title(gathered.setups)}{at_once}: {joined(told)}.{cautions(records)}"


def _aside(record: Record, gathered: Gathered) -> str:
    """` (104 don't; 66 % of offline)`."""
    rate, offline = record.images_per_s, _offline(record, gathered)
    said = [] if rate.high is None else [f"{rate.high:.4g} don't"]
    if offline is not None:
        said.append(f"{100 * rate.value / offline.value:.0f} % of offline")
    return f" ({'; '.join(said)})" if said else ""


def _row(record: Record, gathered: Gathered) -> tuple[str, ...]:
    rate, offline = record.images_per_s, _offline(record, gathered)
    return (
        network_name(record.engine),
        setup_of(record).title(gathered.setups),
        f"{_bound_ms(record):g}",
        f"up to {record.method.batch}",
        f"{rate.value:.4g}",
        "" if rate.high is None else f"{rate.high:.4g}",
        str(record.percentile_ms(SERVER_PERCENTILE)),
        "" if offline is None else str(offline),
        "" if offline is None else f"{100 * rate.value / offline.value:.0f} %",
    )
