"""--data: a folder of images, an .npz archive, generated images, or a manifest of any of these."""

from dataclasses import replace
from pathlib import Path

from deploykit.data.images.folder import class_labels, open_image_folder
from deploykit.data.images.generated import GENERATED, GeneratedImages
from deploykit.data.images.manifest import MANIFEST_SUFFIX, read_image_manifest, require_unchanged
from deploykit.data.images.npz_archive import open_image_archive
from deploykit.data.images.reader import OpenedImages
from deploykit.data.images.sampling import sample_evenly, sample_randomly
from deploykit.data.images.selection import Images
from deploykit.data.preprocessing import NO_OVERRIDES, Overrides, Preprocessing
from deploykit.util.errors import DeployError

DEFAULT_IMAGES = 512
MAX_IMAGES = 1_000_000


def open_images(
    data: str | Path,
    preprocessing: Preprocessing,
    *,
    limit: int | None,
    seed: int | None = None,
    overrides: Overrides = NO_OVERRIDES,
) -> Images:
    """Looks at what data names, without decoding it.

    Args:
        data: a folder of images at any depth, labelled where each stands directly in the folder of its
            class; an .npz with `images` (n, height, width, 3) uint8 and, maybe, `labels` (n,) integers
            and `classes` texts; `generated`; or a manifest, see manifest.Manifest.
        preprocessing: the model's.
        limit: draw at most this many; None for DEFAULT_IMAGES, or as many as the manifest says. Fewer than
            limit is no error.
        seed: draw at random, the same ones each time; None draws evenly from all over, of every class.
        overrides: what the user sets, above the model's preprocessing and the manifest's.

    Raises:
        DeployError: there is nothing there, or nothing of the kind; or the images are not a manifest's.
    """
    if limit is not None and not 1 <= limit <= MAX_IMAGES:
        raise DeployError(
            f"{limit} images are not between 1 and {MAX_IMAGES}.",
            code="invalid-image-count",
            fix="give --images 512",
        )
    if seed is not None and seed < 0:
        raise DeployError(f"A seed of {seed} is negative.", code="invalid-seed", fix="give 0 or more")
    if not str(data):
        raise DeployError("--data names nothing.", code="data-missing", fix="give --data a folder of images")
    if str(data) != GENERATED and Path(data).suffix == MANIFEST_SUFFIX and not Path(data).is_dir():
        return _from_manifest(Path(data), preprocessing, limit, seed, overrides)
    chosen = preprocessing.override(overrides)
    return _draw(data, chosen, limit or DEFAULT_IMAGES, seed, source=str(data))


def _from_manifest(
    path: Path, preprocessing: Preprocessing, limit: int | None, seed: int | None, overrides: Overrides
) -> Images:
    if seed is not None:
        raise DeployError(
            f"{path} says itself which images are drawn.", code="option-conflict", fix="leave the seed out"
        )
    manifest = read_image_manifest(path)
    if manifest.count > MAX_IMAGES:
        raise DeployError(
            f"{path} names {manifest.count} images.",
            code="invalid-image-count",
            fix=f"draw {MAX_IMAGES} at most",
        )
    chosen = preprocessing.override(manifest.preprocessing).override(overrides)
    try:
        images = _draw(manifest.data(path), chosen, manifest.count, manifest.seed, source=str(path))
    except DeployError as error:
        raise DeployError(
            f"What {path} names can't be drawn from: {error.problem}",
            code="image-manifest-invalid",
            fix="correct its source, which is seen from its own folder",
        ) from error
    require_unchanged(path, manifest, images)
    if limit is None or limit >= images.count:
        return images
    return replace(images.subset(sample_evenly(images.count, limit, images.labels)), requested=limit)


def _draw(
    data: str | Path, preprocessing: Preprocessing, limit: int, seed: int | None, *, source: str
) -> Images:
    reader, labels, classes = _everything(data, limit, seed)
    if seed is None or isinstance(reader, GeneratedImages):
        drawn = sample_evenly(len(reader), limit, labels)
    else:
        drawn = sample_randomly(reader.names, limit, seed)
    return Images(
        source=source,
        preprocessing=preprocessing,
        requested=limit,
        available=len(reader),
        reader=reader.select(drawn.tolist()),
        seed=seed,
        labels=None if labels is None else labels[drawn],
        classes=classes,
    )


def _everything(data: str | Path, limit: int, seed: int | None) -> OpenedImages:
    """What there is to draw from; of generated images, as many as are wanted."""
    if str(data) == GENERATED:
        return GeneratedImages(indices=tuple(range(limit)), seed=seed), None, None
    path = Path(data)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise DeployError(
            f"{path} can't be read: {error.strerror}.",
            code="file-unreadable",
            fix="give a folder that you may read",
        ) from error
    if is_folder:
        folder = open_image_folder(path)
        return folder, *class_labels(folder)
    if path.suffix == ".npz":
        return open_image_archive(path)
    if exists:
        raise DeployError(
            f"{path} is neither a folder nor an .npz archive nor a .toml manifest.",
            code="data-unsupported",
            fix="give the folder that holds the images",
        )
    raise DeployError(
        f"There is no folder {path}.", code="file-not-found", fix="give --data an existing folder of images"
    )
