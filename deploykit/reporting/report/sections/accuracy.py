"""How much accuracy does latency buy?"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from deploykit.bench.accuracy_record import AccuracyRecord
from deploykit.bench.record import MeasuredEngine
from deploykit.networks.scaling import format_phi
from deploykit.planning.latency_source import Evidence
from deploykit.reporting.report.caveats import format_caveats
from deploykit.reporting.report.engine_facts import network_name, published_top1, short_machine
from deploykit.reporting.report.pareto_front import AccuracyPoint, find_front, front_status
from deploykit.reporting.report.predicted_members import PredictedMember
from deploykit.reporting.report.report_data import ReportData
from deploykit.reporting.report.section import Column, Section, Table, Trace
from deploykit.reporting.report.setup import Setup
from deploykit.reporting.report.text import join_words
from deploykit.reporting.report.traces import COLOURS, DASHES, GREY, SYMBOLS, log_axis, scatter
from deploykit.stats.estimate import Estimate

IMAGENET = "ImageNet"
_MAX_DATA_NAME = 24  # characters


def section(data: ReportData, predicted: Sequence[PredictedMember]) -> Section | None:
    """Return accuracy against latency, with the Pareto front of each machine and image set."""
    points = [*_list_measured(data), *_list_predicted(predicted, len(data.setups))]
    if not points:
        return None
    fronts = {
        contest: find_front([each for each in points if each.contest == contest])
        for contest in sorted({each.contest for each in points})
    }
    image_sets = sorted({each.data for each in points}, key=lambda name: (name != IMAGENET, name))
    groups = dict.fromkeys((each.series, each.data) for each in points)
    traces = (
        *(_trace_front(contest, front, index) for index, (contest, front) in enumerate(fronts.items())),
        *(
            _trace_points([each for each in points if (each.series, each.data) == group], image_sets)
            for group in groups
        ),
    )
    y_title = "top-1, %" if len(image_sets) == 1 else "top-1, %, one symbol per image set"
    return Section(
        name="accuracy",
        title="How much accuracy does latency buy?",
        findings=tuple(_find(front, points) for front in fronts.values()),
        traces=traces,
        layout={
            "xaxis": log_axis("median latency at batch 1, ms", traces, "x"),
            "yaxis": {"title": {"text": y_title}},
        },
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="setup"),
                Column(title="latency, ms (interval)"),
                Column(title="evidence"),
                Column(title="top-1, % (interval)"),
                Column(title="evidence"),
                Column(title="on the Pareto front"),
                Column(title="source of the accuracy"),
            ),
            rows=tuple(
                _make_row(each, front_status(each, fronts[each.contest], points))
                for each in sorted(points, key=lambda each: (each.contest, each.latency_ms.value))
            ),
        ),
        notes=(
            "Published accuracies are for FP32 networks trained as in their paper, and have no interval. "
            "Measured accuracies have Wilson's 95 % interval. INT8 is shown only where it was evaluated, "
            "with deploykit eval MODEL --data labelled/ -o records.",
            "`possibly` on the Pareto front means that the intervals leave it open. Predictions for one GPU "
            "err together, so that their values decide.",
            *(
                ("Accuracies on different images are not comparable, so each image set has its own front.",)
                if len(image_sets) > 1
                else ()
            ),
        ),
    )


def _list_measured(data: ReportData) -> list[AccuracyPoint]:
    points = []
    for record in data.filter_single_stream():
        setup = Setup.from_record(record)
        found = _find_top1(data, record.engine)
        if found is not None:
            top1, evidence, image_set, source = found
            points.append(
                AccuracyPoint(
                    network=network_name(record.engine),
                    series=setup.title_parts(data.setups),
                    colour=COLOURS[data.setups.index(setup) % len(COLOURS)],
                    place=short_machine(record.machine.name),
                    data=image_set,
                    latency_ms=record.percentile_ms(50),
                    top1=top1.scaled(100),
                    latency_evidence="measured",
                    top1_evidence=evidence,
                    source=source,
                    record=record,
                )
            )
    return points


def _find_top1(data: ReportData, engine: MeasuredEngine) -> tuple[Estimate, Evidence, str, str] | None:
    """Return the top-1 accuracy, its evidence, its image set and its source.

    A measured accuracy comes first. A published one holds only for floating-point networks.
    """
    measured = data.find_accuracy(engine)
    if measured is not None:
        identified = "" if measured.images_sha256 else ", identified by their labels alone"
        source = f"{measured.model} on {measured.images} images of {measured.data}{identified}"
        top1 = measured.top1
        estimate = Estimate(value=top1.value, low=top1.low, high=top1.high)
        return estimate, "measured", _name_image_set(measured), source
    published = published_top1(engine)
    if published is None or engine.precision == "int8":
        return None
    return _without_interval(published.value), "recorded", IMAGENET, published.source


def _without_interval(value: float) -> Estimate:
    return Estimate(value=value, low=None, high=None)


def _name_image_set(measured: AccuracyRecord) -> str:
    """Return a name that is short enough for a legend, and unique to these images."""
    name = Path(measured.data).name[-_MAX_DATA_NAME:] or measured.data[-_MAX_DATA_NAME:]
    digest = hashlib.sha256(f"{measured.data_sha256} {measured.images_sha256}".encode()).hexdigest()
    return f"{measured.images} images of {name} ({digest[:4]})"


def _list_predicted(predicted: Sequence[PredictedMember], setups: int) -> list[AccuracyPoint]:
    series = list(dict.fromkeys(each.series for each in predicted))
    return [
        AccuracyPoint(
            network=f"phi {format_phi(each.phi)}",
            series=(each.series, "predicted"),
            colour=COLOURS[(setups + series.index(each.series)) % len(COLOURS)],
            place=each.gpu,
            data=IMAGENET,
            latency_ms=each.estimate,
            top1=_without_interval(published.value).scaled(100),
            latency_evidence="predicted",
            top1_evidence="recorded",
            source=published.source,
        )
        for each in predicted
        if each.family.metric == "top-1" and (published := each.family.accuracy.get(each.scale)) is not None
    ]


def _trace_points(points: Sequence[AccuracyPoint], image_sets: Sequence[str]) -> Trace:
    first = points[0]
    on = () if len(image_sets) == 1 else (f"on {first.data}",)
    symbol = SYMBOLS[image_sets.index(first.data) % len(SYMBOLS)]
    return scatter(
        (*first.series, *on),
        [each.latency_ms.value for each in points],
        [each.top1.value for each in points],
        mode="markers",
        colour=first.colour,
        symbol=symbol if first.latency_evidence == "measured" else f"{symbol}-open",
        errors_x=[each.latency_ms for each in points],
        errors_y=[each.top1 for each in points],
        hover_lines=[
            (
                f"{each.network}, {', '.join(each.series)}",
                f"{each.latency_ms} ms, {each.latency_evidence}",
                f"{_format_percent(each.top1)} % top-1, {each.top1_evidence}, on {each.data}",
            )
            for each in points
        ],
    )


def _trace_front(contest: tuple[str, str], points: Sequence[AccuracyPoint], index: int) -> Trace:
    """Return the line of a front, in its setup's colour if all its points have one setup."""
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


def _find(front: Sequence[AccuracyPoint], points: Sequence[AccuracyPoint]) -> str:
    contest = front[0].contest
    competing = [each for each in points if each.contest == contest]
    status = {id(each): front_status(each, front, points) for each in competing}
    place, data = contest
    sentences = [
        f"On {place}, with accuracy on {data}, no network is both faster and more accurate than "
        f"{_list_names(front)}."
    ]
    if beaten := [each for each in competing if not status[id(each)]]:
        sentences.append(f"Another network is better in both than {_list_names(beaten)}.")
    if undecided := [each for each in competing if status[id(each)] == "possibly"]:
        sentences.append(f"The intervals leave it open for {_list_names(undecided)}.")
    caveats = format_caveats(each.record for each in competing if each.record is not None)
    return f"{' '.join(sentences)}{caveats}"


def _list_names(points: Sequence[AccuracyPoint]) -> str:
    """Return `phi 0 and phi 1 (FP16), phi 2 (FP32)`."""
    by_series: dict[tuple[str, ...], list[str]] = {}
    for each in points:
        by_series.setdefault(each.series, []).append(each.network)
    names = (f"{join_words(networks)} ({', '.join(series)})" for series, networks in by_series.items())
    return ", ".join(names)


def _make_row(point: AccuracyPoint, status: str) -> tuple[str, ...]:
    return (
        point.network,
        ", ".join(point.series),
        str(point.latency_ms),
        point.latency_evidence,
        _format_percent(point.top1),
        point.top1_evidence,
        status,
        point.source,
    )


def _format_percent(top1: Estimate) -> str:
    if top1.low is None or top1.high is None:
        return f"{top1.value:.2f}"
    return f"{top1.value:.2f} ({top1.low:.2f} to {top1.high:.2f})"
