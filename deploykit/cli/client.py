import dataclasses
import statistics
from pathlib import Path

import click

from deploykit.cli.output import json_option, print_json, print_table, progress_bar
from deploykit.serving.client import DEFAULT_URL, Answer, Client


@click.command(name="client")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--url", default=DEFAULT_URL, show_default=True, help="Or grpc://HOST:8001.")
@click.option("--model", help="Default: the one there that takes images.")
@click.option("--top", type=click.IntRange(1, 1000), default=5, show_default=True, help="Classes an image.")
@json_option
def command(images: tuple[Path, ...], url: str, model: str | None, top: int, as_json: bool) -> None:
    """Send IMAGES, as they are, to a server that deploykit serve started, and print labels and times.

    \b
    Example:
      deploykit client photo.jpg --url http://127.0.0.1:8000
    """
    answers: list[Answer] = []
    try:
        with progress_bar("asking", "images") as progress, Client(url) as client:
            for answer in client.classify(images, model, top=top):
                answers.append(answer)
                progress(len(answers), len(images))
    finally:  # what was answered before some image was refused is shown all the same
        if as_json and answers:
            print_json({"answers": [dataclasses.asdict(each) for each in answers]})
        elif answers:
            _print(answers)


def _print(answers: list[Answer]) -> None:
    print_table(("image", "answer", "time"), [row for each in answers for row in _rows(each)])
    times = [each.ms for each in answers]
    print(
        f"{answers[0].model}, version {answers[0].version}: median {statistics.median(times):.2f} ms "
        f"of {len(times)}, one after another"
    )


def _rows(answer: Answer) -> list[tuple[str, str, str]]:
    if not answer.odds:
        shapes = ", ".join(f"{name} {shape}" for name, shape in answer.shapes.items())
        return [(str(answer.path), shapes, f"{answer.ms:.2f} ms")]
    texts = [f"{100 * each.probability:.2f} % {each.label}" for each in answer.odds]
    first = (str(answer.path), texts[0], f"{answer.ms:.2f} ms")
    return [first, *(("", text, "") for text in texts[1:])]
