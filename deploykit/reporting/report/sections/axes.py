"""What does compound scaling cost, against depth, width or side alone?"""

from collections.abc import Sequence

from deploykit.bench.record import Record
from deploykit.networks.scaling import AXES
from deploykit.reporting.report.caveats import cautions, in_brackets
from deploykit.reporting.report.gather import (
    Gathered,
    Setup,
    axis_of_engine,
    is_compound,
    network_name,
    published_top1,
    setup_of,
)
from deploykit.reporting.report.section import Column, Section, Table, Trace, giga, joined
from deploykit.reporting.report.traces import COLOURS, PALE, SYMBOLS, log_axis, scatter
from deploykit.stats.estimate import Estimate, ratio_between

_ALIKE = 1.3  # times as much work is near enough for the cost of a multiply-accumulate to be compared
_AXIS_COLOURS = (PALE[1], PALE[5], PALE[8])


def sections(gathered: Gathered) -> tuple[Section, ...]:
    """Latency over work by scaling axis, for each setup where one was stretched alone."""
    records = gathered.single_stream()
    stretched = [each for each in records if axis_of_engine(each.engine) is not None and each.engine.macs]
    return tuple(
        _section(
            setup,
            gathered.setups,
            compound=[each for each in records if is_compound(each.engine) and setup_of(each) == setup],
            stretched=[each for each in stretched if setup_of(each) == setup],
        )
        for setup in sorted({setup_of(each) for each in stretched})
    )


def _section(
    setup: Setup, setups: Sequence[Setup], *, compound: Sequence[Record], stretched: Sequence[Record]
) -> Section:
    title = setup.title(setups)
    by_axis = {axis: [each for each in stretched if axis_of_engine(each.engine) == axis] for axis in AXES}
    largest = max(each.engine.macs for each in stretched) * _ALIKE
    shown = [each for each in compound if 0 < each.engine.macs <= largest]
    own_colour = COLOURS[setups.index(setup) % len(COLOURS)]
    series = {"compound": shown, **{f"{axis} alone": records for axis, records in by_axis.items()}}
    traces = tuple(
        _trace(name, records, colour, symbol)
        for (name, records), colour, symbol in zip(
            series.items(), (own_colour, *_AXIS_COLOURS), SYMBOLS, strict=False
        )
        if records
    )
    return Section(
        name=f"axes-{setup.precision.lower()}-{setups.index(setup)}",
        title=f"What does compound scaling cost, against one axis alone? {title}",
        findings=_findings(shown, [each for records in by_axis.values() for each in records]),
        traces=traces,
        layout={
            "xaxis": log_axis("multiply-accumulates an image, G", traces, "x"),
            "yaxis": log_axis("median latency at batch 1, ms", traces, "y"),
        },
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="work as"),
                Column(title="MACs"),
                Column(title="latency, ms", evidence="measured"),
                Column(title="ms per G MACs", evidence="measured"),
                Column(title="over compound's", evidence="measured"),
                Column(title="top-1", evidence="recorded"),
            ),
            rows=(
                *(_row(each, None) for each in shown),
                *(_row(each, _like(each, shown)) for records in by_axis.values() for each in records),
            ),
        ),
        notes=(
            "A network stretched along one axis is compared, per multiply-accumulate, with the member of the "
            f"family nearest to it in work, at most {100 * (_ALIKE - 1):.0f} % away.",
            "Accuracies, where published: Tan and Le 2019, arXiv:1905.11946, Tables 2 and 7. Table 7 has its "
            "networks of depth 4, width 2 and side 448 px at 1.8 to 1.9 G; counted here they have 1.45 to "
            "1.58 G.",
        ),
    )


def _trace(name: str, records: Sequence[Record], colour: str, symbol: str) -> Trace:
    medians = [each.percentile_ms(50) for each in records]
    return scatter(
        (name,),
        [each.engine.macs / 1e9 for each in records],
        [each.value for each in medians],
        colour=colour,
        symbol=symbol,
        errors_y=medians,
        told=[
            (
                network_name(each.engine),
                f"{giga(each.engine.macs)} MACs",
                f"p50 {median} ms, measured",
            )
            for each, median in zip(records, medians, strict=True)
        ],
    )


def _like(record: Record, compound: Sequence[Record]) -> Record | None:
    """The member of the family with about as much work."""

    def distance(other: Record) -> float:
        smaller, larger = sorted((record.engine.macs, other.engine.macs))
        return larger / smaller

    return min((each for each in compound if distance(each) <= _ALIKE), key=distance, default=None)


def _cost(record: Record) -> float:
    """Milliseconds for a G of multiply-accumulates."""
    return record.percentile_ms(50).value / (record.engine.macs / 1e9)


def _over(record: Record, like: Record) -> Estimate:
    """What a multiply-accumulate takes, over what one of the other network does."""
    work = like.engine.macs / record.engine.macs
    return ratio_between(like.percentile_ms(50), record.percentile_ms(50)).scaled(work)


def _findings(compound: Sequence[Record], stretched: Sequence[Record]) -> tuple[str, ...]:
    found = []
    for member in compound:
        rivals = [each for each in stretched if _like(each, compound) == member]
        if rivals:
            told = [
                f"{over.value:.2f} times as long{in_brackets(over)} in {network_name(each.engine)}"
                f"{_percent(each)}"
                for each in rivals
                for over in (_over(each, member),)
            ]
            found.append(
                f"Beside {network_name(member.engine)}{_percent(member)}, of about the same work, a "
                f"multiply-accumulate takes {joined(told)}.{cautions([member, *rivals])}"
            )
    return tuple(found)


def _percent(record: Record) -> str:
    published = published_top1(record.engine)
    return f" ({100 * published.value:.1f} % top-1)" if published is not None else ""


def _row(record: Record, like: Record | None) -> tuple[str, ...]:
    over = None if like is None else _over(record, like)
    return (
        network_name(record.engine),
        network_name(like.engine) if like is not None else "",
        giga(record.engine.macs),
        str(record.percentile_ms(50)),
        f"{_cost(record):.2f}",
        "" if over is None else f"{over.value:.2f}{in_brackets(over)}",
        _percent(record).strip(" ()").removesuffix(" top-1"),
    )
