from pathlib import Path

import click

from deploykit.cli.notes import note
from deploykit.cli.output import json_option, print_json
from deploykit.cli.progress import show_progress
from deploykit.reporting.report import write_report
from deploykit.reporting.report.page import DEFAULT_TITLE


@click.command(name="report")
@click.argument("records", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="HTML file to write.",
)
@click.option("--title", default=DEFAULT_TITLE, show_default=True, help="Title of the page.")
@click.option("--predict", metavar="GPU,GPU", help="GPUs whose predicted latencies are shown as well.")
@json_option
def command(records: tuple[Path, ...], output: Path, title: str, predict: str | None, as_json: bool) -> None:
    """Write an HTML report from RECORDS, which are files of bench, study and eval, or folders of them.

    The page works offline, and has a table under each plot.

    \b
    Example:
      deploykit report records -o report.html --predict T4
    """
    with show_progress("writing the report"):
        sections = write_report(
            records,
            output,
            title=title,
            predict=tuple(predict.split(",")) if predict else (),
            note=note,
        )
    if as_json:
        print_json({"path": output, "sections": sections})
        return
    for section in sections:
        print(f"{section.title} ({', '.join(section.evidence)})")
        for finding in section.findings:
            print(f"  {finding}")
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
