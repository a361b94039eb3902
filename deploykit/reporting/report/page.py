"""Sections -> one HTML file that needs nothing else."""

import base64
import hashlib
from collections.abc import Callable, Hashable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from deploykit import __version__
from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.record import Record, describe_execution, utc_timestamp
from deploykit.reporting.report.gather import Gathered, gather, short_machine
from deploykit.reporting.report.predicted import Predicted, predict_families
from deploykit.reporting.report.section import Section, counted, joined
from deploykit.reporting.report.sections import accuracy, axes, batches, distributions, layers, serving, work
from deploykit.util.atomic_files import require_writable, write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

DEFAULT_TITLE = "How efficient is EfficientNet here?"
_EXTRA = "report"
_SUFFIXES = (".html", ".htm")


def write_report(
    records: Sequence[str | Path],
    output: str | Path = "report.html",
    *,
    title: str = DEFAULT_TITLE,
    predict: Sequence[str] = (),
    note: Callable[[str], None] = lambda sentence: None,
) -> tuple[Section, ...]:
    """Writes one HTML file of what records show: plots, with the table under each.

    Args:
        records: files that bench, study and eval wrote, or folders of them.
        predict: GPUs whose predicted latencies are shown beside.
        note: told of files that are no records.

    Returns:
        What it shows.

    Raises:
        DeployError: no records, a damaged one, a GPU that is not known, no title, or a file that can't be
            written.
    """
    path = Path(output)
    if not title.strip():
        raise DeployError(
            "A page without a title can't be told from others.",
            code="invalid-title",
            fix="give --title a few words",
        )
    require_writable(path, inputs=tuple(map(Path, records)))
    _require_no_other_file(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise DeployError(
            f"{path} is no name for an HTML page.", code="invalid-output-name", fix="end it in .html"
        )
    for module in ("plotly", "jinja2"):
        require(module, extra=_EXTRA)
    gathered = gather(records)
    if gathered.strays:
        note(f"Left out, as no records: {', '.join(map(str, gathered.strays))}.")
    predicted = predict_families(gathered.families, predict)
    shown = sections_of(gathered, predicted)
    if not shown:
        raise DeployError(
            "These records answer none of a report's questions.",
            code="records-insufficient",
            fix="add latency of one image, throughput by batch, or layers: deploykit study makes all",
        )
    write_atomically(path, page(title, gathered, shown))
    return shown


def _require_no_other_file(path: Path) -> None:
    """Only a page is replaced: records are not."""
    if path.is_file() and not path.read_bytes()[:200].lstrip().lower().startswith(b"<!doctype html"):
        raise DeployError(
            f"{path} is there, and is no HTML page.", code="file-exists", fix="give another name with -o"
        )


def sections_of(gathered: Gathered, predicted: Sequence[Predicted] = ()) -> tuple[Section, ...]:
    """Every question that the records answer."""
    single = (
        work.section(gathered, predicted),
        accuracy.section(gathered, predicted),
        batches.section(gathered),
        serving.section(gathered),
        distributions.section(gathered),
    )
    return (
        *(each for each in single if each is not None),
        *layers.sections(gathered),
        *axes.sections(gathered),
    )


def page(title: str, gathered: Gathered, sections: Sequence[Section]) -> str:
    """The HTML, in which no text from outside is anything but text.

    Jinja2 escapes texts, section.plain those in plots, and figures are data, with `<` spelled out. Besides
    that the page forbids itself every script but its own two, by their digests, and any connection.
    """
    jinja2 = require("jinja2", extra=_EXTRA)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    plotly_js, page_js = _plotly_js(), _asset("page.js")
    html: str = environment.from_string(_asset("page.html.jinja")).render(
        title=title,
        sections=sections,
        figures={each.name: figure_json(each) for each in sections},
        summary=_summary(gathered),
        own_machines=joined(gathered.machines) if gathered.machines else "",
        machines=_machines(gathered),
        remarks=_remarks(gathered),
        written=utc_timestamp(),
        version=__version__,
        css=_asset("page.css"),
        plotly_js=plotly_js,
        page_js=page_js,
        script_digests=[_digest(plotly_js), _digest(page_js)],
    )
    return html


def figure_json(section: Section) -> str:
    """The figure as Plotly's JSON, checked against its schema, fit to stand inside a script element."""
    figure = require("plotly.graph_objects", extra=_EXTRA).Figure(
        data=list(section.traces), layout=section.layout, skip_invalid=False
    )
    figure.layout.template = None
    return str(figure.to_json()).replace("<", "\\u003c")


def _runs(gathered: Gathered) -> tuple[Record | LayerProfile, ...]:
    return (*gathered.latencies, *gathered.profiles)


def _machines(gathered: Gathered) -> list[dict[str, Any]]:
    """What ran what, and how it was measured: a row for each that differs."""
    rows: dict[Hashable, dict[str, Any]] = {}
    for record in _runs(gathered):
        row = {
            "machine": short_machine(record.machine.name),
            "cores": record.machine.cores,
            "system": record.machine.system,
            "runtime": _runtime(record),
            "method": _method(record),
        }
        rows.setdefault(tuple(row.values()), {**row, "count": 0})["count"] += 1
    return list(rows.values())


def _runtime(record: Record | LayerProfile) -> str:
    return record.runtime if isinstance(record, Record) else record.engine.compiler.partition(", ")[0]


def _method(record: Record | LayerProfile) -> str:
    if isinstance(record, Record):
        method = record.method
        how = describe_execution(threads=method.threads, cuda_graph=method.cuda_graph)
        return f"{method.scenario}, {method.scope}, {how}"
    return f"layers, {describe_execution(threads=record.threads, cuda_graph=record.cuda_graph)}"


def _summary(gathered: Gathered) -> str:
    """What the page is made of, in a sentence."""
    parts = [
        counted(len(gathered.latencies), "measurement") + " of latency or throughput",
        counted(len(gathered.profiles), "profile") + " by layer",
        counted(len(gathered.accuracies), "evaluation") + " of accuracy",
    ]
    said = f"{joined(parts)}."
    if count := gathered.superseded:
        said += f" Of {counted(count, 'more record')} the same was measured again later: left out."
    if gathered.strays:
        said += f" {counted(len(gathered.strays), 'file')} beside them, no records, left out."
    return said


def _remarks(gathered: Gathered) -> list[tuple[str, str]]:
    return [(record.name, doubt) for record in _runs(gathered) for doubt in record.run_caveats]


def _plotly_js() -> str:
    script: str = require("plotly.offline", extra=_EXTRA).get_plotlyjs()
    return script


def _asset(name: str) -> str:
    return resources.files("deploykit.reporting.report").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """As a content security policy names an inline script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
