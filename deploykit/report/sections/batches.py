"""What does a larger batch bring?"""

from collections.abc import Sequence

from deploykit.bench.record import Record
from deploykit.report.gather import Gathered, Setup, network_name, setup_of
from deploykit.report.section import (
    COLOURS,
    DASHES,
    Column,
    Section,
    Table,
    Trace,
    hover,
    joined,
    log_axis,
    plain,
)

Series = tuple[str, Setup]


def section(gathered: Gathered) -> Section | None:
    """Throughput over batch, of networks that were measured with several."""
    series: dict[Series, list[Record]] = {}
    for record in gathered.latencies:
        if record.method.scenario == "offline":
            series.setdefault((network_name(record.engine), setup_of(record)), []).append(record)
    series = {
        key: sorted(records, key=lambda each: each.method.batch)
        for key, records in series.items()
        if len(records) > 1
    }
    if not series:
        return None
    setups = sorted({setup for _, setup in series})
    networks = list(dict.fromkeys(network for network, _ in series))
    batches = sorted({record.method.batch for records in series.values() for record in records})
    traces = tuple(_trace(key, records, setups, networks) for key, records in series.items())
    return Section(
        name="batches",
        title="What does a larger batch bring?",
        findings=tuple(_finding(setup, setups, series) for setup in setups),
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
            rows=tuple(_row(key, records, setups, batches) for key, records in series.items()),
        ),
        notes=("MLPerf's offline scenario: batches without a pause between them.",),
    )


def _trace(key: Series, records: Sequence[Record], setups: Sequence[Setup], networks: Sequence[str]) -> Trace:
    network, setup = key
    title = f"{network}, {setup.title(setups)}"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(title),
        "visible": True if setup == setups[0] else "legendonly",
        "x": [each.method.batch for each in records],
        "y": [each.images_per_s.value for each in records],
        "line": {
            "color": COLOURS[networks.index(network) % len(COLOURS)],
            "dash": DASHES[setups.index(setup) % len(DASHES)],
        },
        "hoverinfo": "text",
        "hovertext": [
            hover(title, f"batch {each.method.batch}", f"{each.images_per_s.value:.4g} images/s, measured")
            for each in records
        ],
    }


def _finding(setup: Setup, setups: Sequence[Setup], series: dict[Series, list[Record]]) -> str:
    own = {network: records for (network, of), records in series.items() if of == setup}
    best = [
        f"{_best(records).method.batch} for {network} "
        f"({_best(records).images_per_s.value / records[0].images_per_s.value:.2f} times batch "
        f"{records[0].method.batch})"
        for network, records in own.items()
    ]
    return f"{setup.title(setups)}: the best batch is {joined(best)}."


def _best(records: Sequence[Record]) -> Record:
    return max(records, key=lambda each: each.images_per_s.value)


def _row(
    key: Series, records: Sequence[Record], setups: Sequence[Setup], batches: Sequence[int]
) -> tuple[str, ...]:
    network, setup = key
    by_batch = {each.method.batch: each.images_per_s for each in records}
    cells = [
        f"{by_batch[batch].value:.4g} ({by_batch[batch].low:.4g} to {by_batch[batch].high:.4g})"
        if batch in by_batch
        else ""
        for batch in batches
    ]
    return (network, setup.title(setups), *cells, str(_best(records).method.batch))
