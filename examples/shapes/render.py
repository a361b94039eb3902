"""Render labelled images of twelve classes, each a shape and a texture.

python examples/shapes/render.py --out validation.npz --count 2000 --seed 2
python examples/shapes/render.py --out calibration/shapes --count 512 --seed 1
"""

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from PIL import Image
from scene import SHAPES, TEXTURES, Dice, draw

from deploykit.util.atomic_files import require_writable, write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.progress import Progress, no_progress

CLASSES = tuple(f"{shape}-{texture}" for shape in SHAPES for texture in TEXTURES)
"""In alphabetical order, as tools number classes that have one folder each."""
SIDE_PX = 64
TRAINING_SEED, CALIBRATION_SEED, VALIDATION_SEED = 0, 1, 2
MAX_COUNT = 100_000  # 1.2 GB of pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImages:
    """Rendered images with their classes.

    images: (n, side, side, 3) uint8. labels: (n,), indices into CLASSES.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def render(
    count: int, seed: int, *, side_px: int = SIDE_PX, progress: Progress = no_progress
) -> LabelledImages:
    """Render the first `count` images of a seed, cycling through the classes.

    A larger count begins with the same images.

    Args:
        count: Number of images, at least 1.
        seed: 0 or more. Images of different seeds have nothing in common.
        side_px: Side of the images, pixels.
        progress: Receives progress after each image.
    """
    images = np.empty((count, side_px, side_px, 3), np.uint8)
    for index in range(count):
        shape, texture = CLASSES[index % len(CLASSES)].split("-")
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
        images[index] = draw(shape, texture, side_px, Dice(generator))
        progress("rendering", index + 1, count)
    return LabelledImages(images=images, labels=np.arange(count, dtype=np.int64) % len(CLASSES))


def require_free(out: Path) -> None:
    """Check before rendering that the output can be written.

    Raises:
        DeployError: The folder is not empty, or the file cannot be written.
    """
    if out.suffix == ".npz" or not out.exists():
        require_writable(out)
    elif not out.is_dir() or any(out.iterdir()):
        raise DeployError(
            f"{out} is not an empty folder.",
            code="output-not-a-folder",
            fix="give --out a new folder or a .npz file",
        )


def write(data: LabelledImages, out: Path) -> None:
    """Write an .npz (arrays images, labels, classes), or a folder of PNGs with one folder per class.

    Raises:
        DeployError: The disk is full, or writing is not permitted.
    """
    if out.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=data.images, labels=data.labels, classes=np.array(CLASSES))
        write_atomically(out, buffer.getvalue())
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            complete = Path(scratch, "images")
            _write_folders(data, complete)
            complete.rename(out)
    except OSError as error:
        raise DeployError(
            f"{out} can't be written: {error.strerror}.", code="output-unwritable", fix="give another --out"
        ) from error


def _write_folders(data: LabelledImages, folder: Path) -> None:
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for index, (pixels, label) in enumerate(zip(data.images, data.labels, strict=True)):
        Image.fromarray(pixels).save(folder / CLASSES[label] / f"{index:06}.png")


@click.command(epilog="Example: python examples/shapes/render.py --out validation.npz --count 2000 --seed 2")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="A new folder, or a .npz file."
)
@click.option("--count", type=click.IntRange(1, MAX_COUNT), default=512, show_default=True)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=CALIBRATION_SEED,
    show_default=True,
    help="Seed of the images.",
)
@click.option("--side", "side_px", type=click.IntRange(16, 1024), default=SIDE_PX, show_default=True)
def main(out: Path, count: int, seed: int, side_px: int) -> None:
    """Render COUNT labelled images of shapes into a folder of PNGs, one folder per class, or an .npz."""
    try:
        require_free(out)
        with click.progressbar(length=count, label="rendering") as bar:
            data = render(count, seed, side_px=side_px, progress=lambda *_: bar.update(1))
        write(data, out)
    except DeployError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out}: {count} images, {len(CLASSES)} classes, {side_px} px, seed {seed}")


if __name__ == "__main__":
    main()
