"""What does compound scaling cost compared with depth, width or side alone?"""

from collections.abc import Sequence

from deploykit.bench.record import Record
from deploykit.networks.scaling import AXES
from deploykit.reporting.report.caveats import format_caveats, format_interval
from deploykit.reporting.report.engine_facts import is_compound, network_name, published_top1, single_axis
from deploykit.reporting.report.report_data import ReportData
from deploykit.reporting.report.section import Column, Section, Table, Trace
from deploykit.reporting.report.setup import Setup
from deploykit.reporting.report.text import format_giga, join_words
from deploykit.reporting.report.traces import COLOURS, PALE, SYMBOLS, scatter, work_latency_layout
from deploykit.stats.estimate import Estimate, ratio_between

_MAX_WORK_RATIO = 1.3  # beyond, the cost of a multiply-accumulate is not compared
_AXIS_COLOURS = (PALE[1], PALE[5], PALE[8])


def sections(data: ReportData) -> tuple[Section, ...]:
    """Return latency against work by scaling axis, for each setup that measured one axis alone."""
    records = data.filter_single_stream()
    single = [each for each in records if single_axis(each.engine) is not None and each.engine.macs]
    return tuple(
        _make_section(
            setup,
            data.setups,
            compound=[
                each for each in records if is_compound(each.engine) and Setup.from_record(each) == setup
            ],
            single=[each for each in single if Setup.from_record(each) == setup],
        )
        for setup in sorted({Setup.from_record(each) for each in single})
    )


def _make_section(
    setup: Setup, setups: Sequence[Setup], *, compound: Sequence[Record], single: Sequence[Record]
) -> Section:
    by_axis = {axis: [each for each in single if single_axis(each.engine) == axis] for axis in AXES}
    ordered = [each for records in by_axis.values() for each in records]
    max_macs = max(each.engine.macs for each in single) * _MAX_WORK_RATIO
    shown = [each for each in compound if 0 < each.engine.macs <= max_macs]
    setup_colour = COLOURS[setups.index(setup) % len(COLOURS)]
    series = {"compound": shown, **{f"{axis} alone": records for axis, records in by_axis.items()}}
    traces = tuple(
        _make_trace(name, records, colour, symbol)
        for (name, records), colour, symbol in zip(
            series.items(), (setup_colour, *_AXIS_COLOURS), SYMBOLS, strict=False
        )
        if records
    )
    return Section(
        name=f"axes-{setup.precision.lower()}-{setups.index(setup)}",
        title=f"What does compound scaling cost compared with one axis alone? {setup.title(setups)}",
        findings=_find(shown, ordered),
        traces=traces,
        layout=work_latency_layout(traces),
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="compared with"),
                Column(title="MACs"),
                Column(title="latency, ms", evidence="measured"),
                Column(title="ms per G MACs", evidence="measured"),
                Column(title="relative to compound", evidence="measured"),
                Column(title="top-1", evidence="recorded"),
            ),
            rows=(
                *(_make_row(each, None) for each in shown),
                *(_make_row(each, _find_similar(each, shown)) for each in ordered),
            ),
        ),
        notes=(
            "A network scaled along one axis is compared, per multiply-accumulate, with the family member "
            f"whose work is closest, at most {100 * (_MAX_WORK_RATIO - 1):.0f} % away.",
            "Published accuracies are from Tan and Le 2019, arXiv:1905.11946, Tables 2 and 7. Table 7 gives "
            "its networks of depth 4, width 2 and side 448 px 1.8 to 1.9 G; deploykit counts 1.45 to 1.58 G.",
        ),
    )


def _make_trace(name: str, records: Sequence[Record], colour: str, symbol: str) -> Trace:
    medians = [each.percentile_ms(50) for each in records]
    return scatter(
        (name,),
        [each.engine.macs / 1e9 for each in records],
        [each.value for each in medians],
        colour=colour,
        symbol=symbol,
        errors_y=medians,
        hover_lines=[
            (
                network_name(each.engine),
                f"{format_giga(each.engine.macs)} MACs",
                f"p50 {median} ms, measured",
            )
            for each, median in zip(records, medians, strict=True)
        ],
    )


def _find_similar(record: Record, compound: Sequence[Record]) -> Record | None:
    """Return the family member whose work is closest; None if none is close enough."""

    def work_ratio(other: Record) -> float:
        smaller, larger = sorted((record.engine.macs, other.engine.macs))
        return larger / smaller

    close = (each for each in compound if work_ratio(each) <= _MAX_WORK_RATIO)
    return min(close, key=work_ratio, default=None)


def _cost_ratio(record: Record, similar: Record) -> Estimate:
    """Return the time of a multiply-accumulate relative to the similar network."""
    work = similar.engine.macs / record.engine.macs
    return ratio_between(similar.percentile_ms(50), record.percentile_ms(50)).scaled(work)


def _find(compound: Sequence[Record], single: Sequence[Record]) -> tuple[str, ...]:
    findings = []
    for member in compound:
        compared = [each for each in single if _find_similar(each, compound) == member]
        if compared:
            costs = [
                f"{ratio.value:.2f} times as long{format_interval(ratio)} in {network_name(each.engine)}"
                f"{_format_top1(each)}"
                for each in compared
                for ratio in (_cost_ratio(each, member),)
            ]
            findings.append(
                f"Compared with {network_name(member.engine)}{_format_top1(member)}, which has about as much "
                f"work, a multiply-accumulate takes {join_words(costs)}.{format_caveats([member, *compared])}"
            )
    return tuple(findings)


def _format_top1(record: Record) -> str:
    published = published_top1(record.engine)
    return f" ({100 * published.value:.1f} % top-1)" if published is not None else ""


def _make_row(record: Record, similar: Record | None) -> tuple[str, ...]:
    ratio = None if similar is None else _cost_ratio(record, similar)
    median = record.percentile_ms(50)
    return (
        network_name(record.engine),
        network_name(similar.engine) if similar is not None else "",
        format_giga(record.engine.macs),
        str(median),
        f"{median.value / (record.engine.macs / 1e9):.2f}",
        "" if ratio is None else f"{ratio.value:.2f}{format_interval(ratio)}",
        _format_top1(record).strip(" ()").removesuffix(" top-1"),
    )
