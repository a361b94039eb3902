"""What accuracy does a latency buy?"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from deploykit.bench.accuracy_record import AccuracyRecord
from deploykit.bench.record import MeasuredEngine
from deploykit.networks.scaling import format_phi
from deploykit.reporting.report.caveats import cautions
from deploykit.reporting.report.gather import (
    Gathered,
    Setup,
    network_name,
    published_top1,
    setup_of,
    short_machine,
)
from deploykit.reporting.report.pareto_front import Point, front, standing
from deploykit.reporting.report.predicted import Predicted
from deploykit.reporting.report.section import Column, Evidence, Section, Table, Trace, joined
from deploykit.reporting.report.traces import COLOURS, DASHES, GREY, SYMBOLS, log_axis, scatter
from deploykit.stats.estimate import Estimate

IMAGENET = "ImageNet"
_NAME_LENGTH = 24


def section(gathered: Gathered, predicted: Sequence[Predicted]) -> Section | None:
    """Accuracy over latency, with the front of what nothing else beats in both."""
    points = [*_measured(gathered), *_predicted(predicted, len(gathered.setups))]
    if not points:
        return None
    contests = sorted({each.contest for each in points})
    fronts = {contest: front([each for each in points if each.contest == contest]) for contest in contests}
    data = sorted({each.data for each in points}, key=lambda name: (name != IMAGENET, name))
    groups = dict.fromkeys((each.series, each.data) for each in points)
    traces = (
        *(_front_trace(contest, found, index) for index, (contest, found) in enumerate(fronts.items())),
        *(_trace([each for each in points if (each.series, each.data) == group], data) for group in groups),
    )
    return Section(
        name="accuracy",
        title="What accuracy does a latency buy?",
        findings=tuple(_finding(found, points) for found in fronts.values()),
        traces=traces,
        layout={
            "xaxis": log_axis("median latency at batch 1, ms", traces, "x"),
            "yaxis": {
                "title": {
                    "text": "top-1, %" if len(data) == 1 else "top-1, %, a symbol for each set of images"
                }
            },
        },
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="runs on"),
                Column(title="latency, ms (interval)"),
                Column(title="evidence"),
                Column(title="top-1, % (interval)"),
                Column(title="evidence"),
                Column(title="on the front"),
                Column(title="accuracy from"),
            ),
            rows=tuple(
                (
                    each.network,
                    ", ".join(each.series),
                    str(each.latency_ms),
                    each.latency_evidence,
                    _percent(each.top1),
                    each.top1_evidence,
                    standing(each, fronts[each.contest], points),
                    each.source,
                )
                for each in sorted(points, key=lambda each: (each.contest, each.latency_ms.value))
            ),
        ),
        notes=(
            "Published accuracies are of FP32 networks trained as in their paper, and come without an "
            "interval; measured ones with Wilson's, 95 %. INT8 is shown where it was evaluated: deploykit "
            "eval MODEL --data labelled/ -o records.",
            "On the front perhaps: the intervals leave it open. Predictions for one GPU err together: of "
            "those the values decide.",
            *(
                ("Accuracies on different images say nothing about each other: fronts are of one set each.",)
                if len(data) > 1
                else ()
            ),
        ),
    )


def _measured(gathered: Gathered) -> list[Point]:
    points = []
    for record in gathered.single_stream():
        setup: Setup = setup_of(record)
        top1 = _top1(gathered, record.engine)
        if top1 is not None:
            value, evidence, data, source = top1
            points.append(
                Point(
                    network=network_name(record.engine),
                    series=setup.parts(gathered.setups),
                    colour=COLOURS[gathered.setups.index(setup) % len(COLOURS)],
                    place=short_machine(record.machine.name),
                    data=data,
                    latency_ms=record.percentile_ms(50),
                    top1=value.scaled(100),
                    latency_evidence="measured",
                    top1_evidence=evidence,
                    source=source,
                    record=record,
                )
            )
    return points


def _top1(gathered: Gathered, engine: MeasuredEngine) -> tuple[Estimate, Evidence, str, str] | None:
    """What was measured, else what was published, which is about networks in floating point."""
    measured = gathered.accuracy_of(engine)
    if measured is not None:
        by = "" if measured.images_sha256 else ", told from others by their labels alone"
        source = f"{measured.model} on {measured.images} images of {measured.data}{by}"
        top1 = measured.top1
        estimate = Estimate(value=top1.value, low=top1.low, high=top1.high)
        return estimate, "measured", _data_name(measured), source
    published = published_top1(engine)
    if published is None or engine.precision == "int8":
        return None
    return _published(published.value), "recorded", IMAGENET, published.source


def _published(value: float) -> Estimate:
    return Estimate(value=value, low=None, high=None)


def _data_name(measured: AccuracyRecord) -> str:
    """Short enough for a legend, and another for other images."""
    name = Path(measured.data).name[-_NAME_LENGTH:] or measured.data[-_NAME_LENGTH:]
    which = hashlib.sha256(f"{measured.data_sha256} {measured.images_sha256}".encode()).hexdigest()
    return f"{measured.images} images of {name} ({which[:4]})"


def _predicted(predicted: Sequence[Predicted], setups: int) -> list[Point]:
    series = list(dict.fromkeys(each.series for each in predicted))
    return [
        Point(
            network=f"phi {format_phi(each.phi)}",
            series=(each.series, "predicted"),
            colour=COLOURS[(setups + series.index(each.series)) % len(COLOURS)],
            place=each.gpu,
            data=IMAGENET,
            latency_ms=each.estimate,
            top1=_published(published.value).scaled(100),
            latency_evidence="predicted",
            top1_evidence="recorded",
            source=published.source,
        )
        for each in predicted
        if each.family.metric == "top-1" and (published := each.family.accuracy.get(each.scale)) is not None
    ]


def _trace(points: Sequence[Point], data: Sequence[str]) -> Trace:
    first = points[0]
    on = () if len(data) == 1 else (f"on {first.data}",)
    symbol = SYMBOLS[data.index(first.data) % len(SYMBOLS)]
    return scatter(
        (*first.series, *on),
        [each.latency_ms.value for each in points],
        [each.top1.value for each in points],
        mode="markers",
        colour=first.colour,
        symbol=symbol if first.latency_evidence == "measured" else f"{symbol}-open",
        errors_x=[each.latency_ms for each in points],
        errors_y=[each.top1 for each in points],
        told=[
            (
                f"{each.network}, {', '.join(each.series)}",
                f"{each.latency_ms} ms, {each.latency_evidence}",
                f"{_percent(each.top1)} % top-1, {each.top1_evidence}, on {each.data}",
            )
            for each in points
        ],
    )


def _front_trace(contest: tuple[str, str], points: Sequence[Point], index: int) -> Trace:
    """In its setup's colour, where all of it is of one."""
    colours = {each.colour for each in points}
    place, data = contest
    return scatter(
        (f"front on {place}", data),
        [each.latency_ms.value for each in points],
        [each.top1.value for each in points],
        mode="lines",
        colour=colours.pop() if len(colours) == 1 else GREY,
        dash=DASHES[1 + index % (len(DASHES) - 1)],
        width=1.5,
        step=True,
    )


def _finding(on_front: Sequence[Point], points: Sequence[Point]) -> str:
    place, data = on_front[0].contest
    own = [each for each in points if each.contest == (place, data)]
    stands = {id(each): standing(each, on_front, points) for each in own}
    said = (
        f"On {place}, by accuracy on {data}, nothing is both faster and more accurate than {_names(on_front)}"
    )
    beaten = [each for each in own if not stands[id(each)]]
    open_ones = [each for each in own if stands[id(each)] == "perhaps"]
    if beaten:
        said += f"; {_names(beaten)} can be bettered in both"
    if open_ones:
        said += f". The intervals leave open whether {_names(open_ones)} can be"
    return f"{said}.{cautions(each.record for each in own if each.record is not None)}"


def _names(points: Sequence[Point]) -> str:
    """`phi 0 and phi 1 (FP16), phi 2 (FP32)`."""
    by_series: dict[tuple[str, ...], list[str]] = {}
    for each in points:
        by_series.setdefault(each.series, []).append(each.network)
    return ", ".join(f"{joined(networks)} ({', '.join(series)})" for series, networks in by_series.items())


def _percent(top1: Estimate) -> str:
    if top1.low is None or top1.high is None:
        return f"{top1.value:.2f}"
    return f"{top1.value:.2f} ({top1.low:.2f} to {top1.high:.2f})"
