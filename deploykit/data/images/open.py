"""Open what --data names: a folder of images, an .npz archive, generated images, or a manifest."""

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
    """Open images and draw a sample of them, without decoding any.

    Args:
        data: A folder of images at any depth, which has labels if every image is directly in the folder of
            its class; an .npz with `images` (n, height, width, 3) uint8 and optionally `labels` (n,) integers
            and `classes` strings; `generated`; or a manifest, see manifest.ImageManifest.
        preprocessing: The model's preprocessing.
        limit: Maximum number of images to draw; None for DEFAULT_IMAGES or the manifest's number. Having
            fewer images is not an error.
        seed: Draw a random sample, which is always the same for a seed; None draws evenly spaced images that
            include every class.
        overrides: The user's changes, which take precedence over the preprocessing of model and manifest.

    Raises:
        DeployError: The data do not exist or are of another kind, or a manifest's images have changed.
    """
    if limit is not None and not 1 <= limit <= MAX_IMAGES:
        raise DeployError(
            f"--images is {limit}; it must be between 1 and {MAX_IMAGES}.",
            code="invalid-image-count",
            fix="--images 512",
        )
    if seed is not None and seed < 0:
        raise DeployError(f"--seed is {seed}; it must be 0 or more.", code="invalid-seed", fix="--seed 0")
    if not str(data):
        raise DeployError("--data is empty.", code="data-missing", fix="name a folder of images with --data")
    if str(data) != GENERATED and Path(data).suffix == MANIFEST_SUFFIX and not Path(data).is_dir():
        return _from_manifest(Path(data), preprocessing, limit, seed, overrides)
    chosen = preprocessing.override(overrides)
    return _draw(data, chosen, limit or DEFAULT_IMAGES, seed, source=str(data))


def _from_manifest(
    path: Path, preprocessing: Preprocessing, limit: int | None, seed: int | None, overrides: Overrides
) -> Images:
    if seed is not None:
        raise DeployError(
            f"{path} already defines which images are drawn.", code="option-conflict", fix="omit --seed"
        )
    manifest = read_image_manifest(path)
    if manifest.count > MAX_IMAGES:
        raise DeployError(
            f"{path} has a count of {manifest.count}; the maximum is {MAX_IMAGES}.",
            code="invalid-image-count",
            fix="write a new manifest with fewer images: deploykit calibrate --manifest FILE.toml",
        )
    chosen = preprocessing.override(manifest.preprocessing).override(overrides)
    try:
        images = _draw(manifest.data(path), chosen, manifest.count, manifest.seed, source=str(path))
    except DeployError as error:
        raise DeployError(
            f"The source of {path} can't be opened: {error.problem}",
            code="image-manifest-invalid",
            fix="correct its source, which is relative to the manifest's folder",
        ) from error
    require_unchanged(path, manifest, images)
    if limit is None or limit >= images.count:
        return images
    return replace(images.subset(sample_evenly(images.count, limit, images.labels)), requested=limit)


def _draw(
    data: str | Path, preprocessing: Preprocessing, limit: int, seed: int | None, *, source: str
) -> Images:
    reader, labels, classes = _open_all(data, limit, seed)
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


def _open_all(data: str | Path, limit: int, seed: int | None) -> OpenedImages:
    """Return all the images to draw from; of generated images, as many as requested."""
    if str(data) == GENERATED:
        return GeneratedImages(indices=tuple(range(limit)), seed=seed), None, None
    path = Path(data)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise DeployError(
            f"{path} can't be read: {error.strerror}.",
            code="file-unreadable",
            fix="check the folder's permissions",
        ) from error
    if is_folder:
        folder = open_image_folder(path)
        return folder, *class_labels(folder)
    if path.suffix == ".npz":
        return open_image_archive(path)
    if exists:
        raise DeployError(
            f"{path} is not a folder, an .npz archive or a .toml manifest.",
            code="data-unsupported",
            fix="name the folder that contains the images with --data",
        )
    raise DeployError(
        f"{path} does not exist.", code="file-not-found", fix="name an existing folder of images with --data"
    )
