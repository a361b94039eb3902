"""What does a larger batch bring?"""

from collections.abc import Sequence

from deploykit.bench.record import Record
from deploykit.reporting.report.caveats import cautions, in_brackets, not_clearly
from deploykit.reporting.report.gather import Gathered, Setup, network_name, setup_of
from deploykit.reporting.report.section import Column, Section, Table, Trace, joined
from deploykit.reporting.report.traces import COLOURS, MOST_SHOWN, SYMBOLS, log_axis, scatter, shade
from deploykit.stats.estimate import Estimate, ratio_between

Series = tuple[str, Setup]


def section(gathered: Gathered) -> Section | None:
    """Throughput over batch, of networks that were measured with several."""
    series: dict[Series, list[Record]] = {}
    for record in gathered.of_scenario("offline"):
        series.setdefault((network_name(record.engine), setup_of(record)), []).append(record)
    series = {
        key: sorted(records, key=lambda each: each.method.batch)
        for key, records in series.items()
        if len(records) > 1
    }
    if not series:
        return None
    of_series = sorted({setup for _, setup in series})
    networks = list(dict.fromkeys(network for network, _ in series))
    batches = sorted({record.method.batch for records in series.values() for record in records})
    first = of_series[0] if len(series) > MOST_SHOWN else None
    traces = tuple(
        _trace(key, records, gathered.setups, networks, shown=first in (None, key[1]))
        for key, records in series.items()
    )
    return Section(
        name="batches",
        title="What does a larger batch bring?",
        findings=tuple(_finding(setup, gathered.setups, series) for setup in of_series),
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
                Column(title="runs on"),
                *(Column(title=f"images/s at {batch}", evidence="measured") for batch in batches),
                Column(title="best batch", evidence="measured"),
            ),
            rows=tuple(_row(key, records, gathered.setups, batches) for key, records in series.items()),
        ),
        notes=(
            "MLPerf's offline scenario: batches without a pause between them. In brackets at the best batch: "
            "those that are not clearly worse.",
            *hidden_note(first, gathered.setups),
        ),
    )


def hidden_note(first: Setup | None, setups: Sequence[Setup]) -> tuple[str, ...]:
    """What is not shown at first is said to be."""
    if first is None:
        return ()
    return (f"Shown at first: {first.title(setups)}. A click in the legend shows the others.",)


def _trace(
    key: Series, records: Sequence[Record], setups: Sequence[Setup], networks: Sequence[str], *, shown: bool
) -> Trace:
    network, setup = key
    at = networks.index(network)
    rates = [each.images_per_s for each in records]
    return scatter(
        (network, *setup.parts(setups)),
        [each.method.batch for each in records],
        [each.value for each in rates],
        colour=COLOURS[setups.index(setup) % len(COLOURS)],
        symbol=SYMBOLS[at % len(SYMBOLS)],
        opacity=shade(at, len(networks)),
        shown=shown,
        errors_y=rates,
        told=[
            (
                f"{network}, {setup.title(setups)}",
                f"batch {each.method.batch}",
                f"{rate} images/s, measured",
            )
            for each, rate in zip(records, rates, strict=True)
        ],
    )


def _finding(setup: Setup, setups: Sequence[Setup], series: dict[Series, list[Record]]) -> str:
    own = {network: records for (network, of), records in series.items() if of == setup}
    gains = {network: _rate_ratio(records[0], _best(records)) for network, records in own.items()}
    clear = {network: gain for network, gain in gains.items() if gain.low is not None and gain.low > 1}
    said = [
        f"{clear[network].value:.2f} times{in_brackets(clear[network])} for {network} at batch "
        f"{_best(own[network]).method.batch}"
        for network in sorted(clear, key=lambda network: -clear[network].value)
    ]
    rest = [network for network in own if network not in clear]
    told = [f"a larger batch gives more images/s: {joined(said)}"] if said else []
    if rest:
        told.append(f"no batch is clearly better than the smallest for {joined(rest)}")
    runs = [each for records in own.values() for each in records]
    return f"{setup.title(setups)}: {'; '.join(told)}.{cautions(runs)}"


def _best(records: Sequence[Record]) -> Record:
    return max(records, key=lambda each: each.images_per_s.value)


def _rate_ratio(one: Record, other: Record) -> Estimate:
    return ratio_between(one.images_per_s, other.images_per_s)


def _row(
    key: Series, records: Sequence[Record], setups: Sequence[Setup], batches: Sequence[int]
) -> tuple[str, ...]:
    network, setup = key
    by_batch = {each.method.batch: each for each in records}
    best = _best(records)
    as_good = not_clearly(best, records, _rate_ratio, lambda each: str(each.method.batch))
    return (
        network,
        setup.title(setups),
        *(str(by_batch[batch].images_per_s) if batch in by_batch else "" for batch in batches),
        f"{best.method.batch} ({', '.join(as_good)})" if as_good else str(best.method.batch),
    )
