import dataclasses
import statistics
from pathlib import Path

import click

from deploykit.cli.output import json_option, print_json, print_table
from deploykit.cli.progress import show_progress
from deploykit.serving.client import DEFAULT_URL, Client, ImageResult


@click.command(name="client")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--url", default=DEFAULT_URL, show_default=True, help="URL of the server, also grpc://HOST:8001."
)
@click.option("--model", help="Model to ask; default: the only one that takes images.")
@click.option(
    "--top",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Number of classes to print for each image.",
)
@json_option
def command(images: tuple[Path, ...], url: str, model: str | None, top: int, as_json: bool) -> None:
    """Send IMAGES to a server that deploykit serve started, and print labels and times.

    \b
    Example:
      deploykit client photo.jpg --url http://127.0.0.1:8000
    """
    results: list[ImageResult] = []
    try:
        with show_progress("asking") as progress, Client(url) as client:
            for result in client.classify(images, model, top=top):
                results.append(result)
                progress("asking", len(results), len(images))
    finally:  # shows the results before an error too
        if as_json and results:
            print_json({"answers": [dataclasses.asdict(each) for each in results]})
        elif results:
            _print(results)


def _print(results: list[ImageResult]) -> None:
    print_table(("image", "answer", "time"), [row for each in results for row in _rows(each)])
    times = [each.ms for each in results]
    print(
        f"{results[0].model}, version {results[0].version}: median {statistics.median(times):.2f} ms "
        f"of {len(times)} requests, one after another"
    )


def _rows(result: ImageResult) -> list[tuple[str, str, str]]:
    if not result.odds:
        shapes = ", ".join(f"{name} {shape}" for name, shape in result.shapes.items())
        return [(str(result.path), shapes, f"{result.ms:.2f} ms")]
    texts = [f"{100 * each.probability:.2f} % {each.label}" for each in result.odds]
    first = (str(result.path), texts[0], f"{result.ms:.2f} ms")
    return [first, *(("", text, "") for text in texts[1:])]
