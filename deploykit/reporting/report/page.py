"""Write a report's sections as one self-contained HTML file."""

import base64
import hashlib
from collections.abc import Callable, Hashable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from deploykit import __version__
from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.record import Record, describe_execution, utc_timestamp
from deploykit.reporting.report.engine_facts import short_machine
from deploykit.reporting.report.predicted_members import PredictedMember, predict_families
from deploykit.reporting.report.report_data import ReportData, read_report_data
from deploykit.reporting.report.section import Section
from deploykit.reporting.report.sections import accuracy, axes, batches, distributions, layers, serving, work
from deploykit.reporting.report.text import count_noun, join_words
from deploykit.util.atomic_files import require_writable, write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

DEFAULT_TITLE = "How efficient is EfficientNet on this machine?"
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
    """Write one HTML page of what records show: plots, each with a table below.

    Args:
        records: Files that bench, study and eval wrote, or folders of them.
        output: The HTML file to write; only another HTML page is replaced.
        title: Title of the page.
        predict: GPUs whose predicted latency is shown in addition.
        note: Called with a sentence about files that are not records.

    Returns:
        The sections of the page.

    Raises:
        DeployError: There is no record, one is damaged, a GPU is unknown, the title is empty, or the file
            cannot be written.
    """
    path = Path(output)
    if not title.strip():
        raise DeployError(
            "A report needs a title that is not empty.",
            code="invalid-title",
            fix='give --title "Latency of our models"',
        )
    require_writable(path, inputs=tuple(map(Path, records)))
    _require_replaceable(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise DeployError(
            f"{path} does not end in .html.", code="invalid-output-name", fix="give -o report.html"
        )
    for module in ("plotly", "jinja2"):
        require(module, extra=_EXTRA)
    data = read_report_data(records)
    if data.strays:
        note(f"Skipped files that are not records: {', '.join(map(str, data.strays))}.")
    sections = make_sections(data, predict_families(data.families, predict))
    if not sections:
        raise DeployError(
            "These records answer none of the report's questions.",
            code="records-insufficient",
            fix="add latency at batch 1, throughput by batch, or layers; deploykit study measures them all",
        )
    write_atomically(path, render_page(title, data, sections))
    return sections


def make_sections(data: ReportData, predicted: Sequence[PredictedMember] = ()) -> tuple[Section, ...]:
    """Return a section for every question that the records answer."""
    single = (
        work.section(data, predicted),
        accuracy.section(data, predicted),
        batches.section(data),
        serving.section(data),
        distributions.section(data),
    )
    return (
        *(each for each in single if each is not None),
        *layers.sections(data),
        *axes.sections(data),
    )


def render_page(title: str, data: ReportData, sections: Sequence[Section]) -> str:
    """Return the page's HTML, in which every text from outside is escaped.

    Jinja2 escapes texts in the page, text.escape_text those in plots, and figures are JSON with `<` escaped.
    In addition a content security policy forbids every script except the page's two, by their digests, and
    every connection.
    """
    jinja2 = require("jinja2", extra=_EXTRA)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    plotly_js, page_js = _load_plotly_js(), _load_asset("page.js")
    html: str = environment.from_string(_load_asset("page.html.jinja")).render(
        title=title,
        sections=sections,
        figures={each.name: make_figure_json(each) for each in sections},
        summary=_summarize(data),
        own_machines=join_words(data.machines) if data.machines else "",
        machines=_list_machines(data),
        remarks=[(record.name, doubt) for record in data.runs for doubt in record.run_caveats],
        written=utc_timestamp(),
        version=__version__,
        css=_load_asset("page.css"),
        plotly_js=plotly_js,
        page_js=page_js,
        script_digests=[_digest(plotly_js), _digest(page_js)],
    )
    return html


def make_figure_json(section: Section) -> str:
    """Return the plot as JSON that Plotly's schema accepts and a script element may contain."""
    figure = require("plotly.graph_objects", extra=_EXTRA).Figure(
        data=list(section.traces), layout=section.layout, skip_invalid=False
    )
    figure.layout.template = None
    return str(figure.to_json()).replace("<", "\\u003c")


def _require_replaceable(path: Path) -> None:
    """Check that the output would replace nothing but an HTML page.

    Raises:
        DeployError: The path is another kind of file, such as a record.
    """
    if path.is_file() and not path.read_bytes()[:200].lstrip().lower().startswith(b"<!doctype html"):
        raise DeployError(
            f"{path} exists and is not an HTML page.", code="file-exists", fix="give another name with -o"
        )


def _list_machines(data: ReportData) -> list[dict[str, Any]]:
    """Return a row for each distinct machine, runtime and method, with the number of records."""
    rows: dict[Hashable, dict[str, Any]] = {}
    for record in data.runs:
        row = {
            "machine": short_machine(record.machine.name),
            "cores": record.machine.cores,
            "system": record.machine.system,
            "runtime": _describe_runtime(record),
            "method": _describe_method(record),
        }
        rows.setdefault(tuple(row.values()), {**row, "count": 0})["count"] += 1
    return list(rows.values())


def _describe_runtime(record: Record | LayerProfile) -> str:
    return record.runtime if isinstance(record, Record) else record.engine.compiler.partition(", ")[0]


def _describe_method(record: Record | LayerProfile) -> str:
    if isinstance(record, Record):
        method = record.method
        how = describe_execution(threads=method.threads, cuda_graph=method.cuda_graph)
        return f"{method.scenario}, {method.scope}, {how}"
    return f"layers, {describe_execution(threads=record.threads, cuda_graph=record.cuda_graph)}"


def _summarize(data: ReportData) -> str:
    """Return sentences about which records the page shows."""
    parts = [
        count_noun(len(data.latencies), "measurement") + " of latency or throughput",
        count_noun(len(data.profiles), "profile") + " by layer",
        count_noun(len(data.accuracies), "evaluation") + " of accuracy",
    ]
    sentences = f"This page shows {join_words(parts)}."
    if data.superseded:
        older = count_noun(data.superseded, "older record")
        sentences += f" It leaves out {older} of measurements that were repeated later."
    if data.strays:
        others = count_noun(len(data.strays), "JSON file")
        sentences += f" It leaves out {others} that {'is' if len(data.strays) == 1 else 'are'} not a record."
    return sentences


def _load_plotly_js() -> str:
    script: str = require("plotly.offline", extra=_EXTRA).get_plotlyjs()
    return script


def _load_asset(name: str) -> str:
    return resources.files("deploykit.reporting.report").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """Return the digest by which a content security policy names an inline script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
