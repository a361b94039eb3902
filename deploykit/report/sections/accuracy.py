"""What accuracy does a latency buy?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploykit.bench.accuracy import Accuracy
from deploykit.bench.record import Measured
from deploykit.report.gather import Gathered, network_name, published_top1, setup_of, short_machine
from deploykit.report.predicted import Predicted
from deploykit.report.section import (
    COLOURS,
    GREY,
    Column,
    Evidence,
    Section,
    Table,
    Trace,
    hover,
    joined,
    log_axis,
    milliseconds,
    plain,
)
from deploykit.scaling import phi_label

IMAGENET = "ImageNet"
_NAME_LENGTH = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A network with its accuracy, as a fraction, and its latency.

    Attributes:
        place: where it runs; data: what the accuracy is on. Points of one place and data compete.
    """

    network: str
    series: str
    place: str
    data: str
    latency_ms: float
    top1: float
    latency_evidence: Evidence
    top1_evidence: Evidence
    source: str


def section(gathered: Gathered, predicted: Sequence[Predicted]) -> Section | None:
    """Accuracy over latency, with the front of what nothing else beats in both."""
    points = [*_measured(gathered), *_predicted(predicted)]
    if not points:
        return None
    contests = sorted({(each.place, each.data) for each in points})
    fronts = [front([each for each in points if (each.place, each.data) == contest]) for contest in contests]
    on_front = [each for found in fronts for each in found]
    series = list(dict.fromkeys(each.series for each in points))
    traces = (
        *(_trace([each for each in points if each.series == name], at) for at, name in enumerate(series)),
        *(_front_trace(place, data, found) for (place, data), found in zip(contests, fronts, strict=True)),
    )
    return Section(
        name="accuracy",
        title="What accuracy does a latency buy?",
        findings=tuple(
            _finding(place, data, found, points)
            for (place, data), found in zip(contests, fronts, strict=True)
        ),
        traces=traces,
        layout={
            "xaxis": log_axis("median latency at batch 1, ms", traces, "x"),
            "yaxis": {"title": {"text": "top-1, %"}},
        },
        table=Table(
            columns=(
                Column(title="network"),
                Column(title="runs on"),
                Column(title="latency, ms"),
                Column(title="evidence"),
                Column(title="top-1"),
                Column(title="evidence"),
                Column(title="on the front"),
                Column(title="accuracy from"),
            ),
            rows=tuple(
                (
                    each.network,
                    each.series,
                    f"{each.latency_ms:.4g}",
                    each.latency_evidence,
                    f"{100 * each.top1:.2f} %",
                    each.top1_evidence,
                    "yes" if each in on_front else "",
                    each.source,
                )
                for each in sorted(points, key=lambda each: (each.place, each.data, each.latency_ms))
            ),
        ),
        notes=(
            "Published accuracies are of FP32 networks trained as in their paper. INT8 is shown where it was "
            "evaluated: deploykit eval MODEL --data labelled/ -o records.",
        ),
    )


def front(points: Iterable[Point]) -> list[Point]:
    """Those that no other is at least as fast as and at least as accurate as; by latency."""
    found: list[Point] = []
    for point in sorted(points, key=lambda each: (each.latency_ms, -each.top1)):
        if not found or point.top1 > found[-1].top1:
            found.append(point)
    return found


def _measured(gathered: Gathered) -> list[Point]:
    points = []
    for record in gathered.single_stream():
        top1 = _top1(gathered, record.engine)
        if top1 is not None:
            value, evidence, data, source = top1
            points.append(
                Point(
                    network=network_name(record.engine),
                    series=setup_of(record).title(gathered.setups),
                    place=short_machine(record.machine.name),
                    data=data,
                    latency_ms=record.percentile_ms(50).value,
                    top1=value,
                    latency_evidence="measured",
                    top1_evidence=evidence,
                    source=source,
                )
            )
    return points


def _top1(gathered: Gathered, engine: Measured) -> tuple[float, Evidence, str, str] | None:
    """What was measured, else what was published, which is about networks in floating point."""
    measured = gathered.accuracy_of(engine)
    if measured is not None:
        source = f"{measured.model} on {measured.images} images of {measured.data}"
        return measured.top1.value, "measured", _data_name(measured), source
    published = published_top1(engine)
    if published is None or engine.precision == "int8":
        return None
    return published.value, "recorded", IMAGENET, published.source


def _data_name(measured: Accuracy) -> str:
    """Short enough for a legend, and another for other images."""
    name = Path(measured.data).name[-_NAME_LENGTH:] or measured.data[-_NAME_LENGTH:]
    return f"{measured.images} images of {name} ({measured.data_sha256[:4]})"


def _predicted(predicted: Sequence[Predicted]) -> list[Point]:
    return [
        Point(
            network=f"phi {phi_label(each.phi)}",
            series=f"{each.series}, predicted",
            place=each.gpu,
            data=IMAGENET,
            latency_ms=each.latency.latency_ms,
            top1=published.value,
            latency_evidence="predicted",
            top1_evidence="recorded",
            source=published.source,
        )
        for each in predicted
        if each.family.metric == "top-1" and (published := each.family.accuracy.get(each.scale)) is not None
    ]


def _trace(points: Sequence[Point], index: int) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(points[0].series),
        "x": [each.latency_ms for each in points],
        "y": [100 * each.top1 for each in points],
        "marker": {
            "color": COLOURS[index % len(COLOURS)],
            "size": 9,
            "symbol": ["circle" if each.latency_evidence == "measured" else "circle-open" for each in points],
        },
        "hoverinfo": "text",
        "hovertext": [
            hover(
                f"{each.network}, {each.series}",
                f"{milliseconds(each.latency_ms)}, {each.latency_evidence}",
                f"{100 * each.top1:.2f} % top-1, {each.top1_evidence}",
            )
            for each in points
        ],
    }


def _front_trace(place: str, data: str, points: Sequence[Point]) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(f"front on {place}, {data}"),
        "x": [each.latency_ms for each in points],
        "y": [100 * each.top1 for each in points],
        "line": {"color": GREY, "shape": "hv", "width": 1, "dash": "dash"},
        "hoverinfo": "skip",
    }


def _finding(place: str, data: str, on_front: Sequence[Point], points: Sequence[Point]) -> str:
    rivals = [each for each in points if (each.place, each.data) == (place, data) and each not in on_front]
    said = (
        f"On {place}, by accuracy on {data}, nothing is both faster and more accurate than {_names(on_front)}"
    )
    return f"{said}; {_names(rivals)} can be bettered in both." if rivals else f"{said}."


def _names(points: Sequence[Point]) -> str:
    """`phi 0 and phi 1 (FP16), phi 2 (FP32)`."""
    by_series: dict[str, list[str]] = {}
    for each in points:
        by_series.setdefault(each.series, []).append(each.network)
    return ", ".join(f"{joined(networks)} ({series})" for series, networks in by_series.items())
