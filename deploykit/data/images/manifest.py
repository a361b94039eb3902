"""Manifests, calibration/*.toml: which images were drawn and from where, to draw the same ones again."""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from deploykit.data.images.generated import GENERATED
from deploykit.data.images.selection import Images
from deploykit.data.preprocessing import NO_OVERRIDES, Overrides
from deploykit.util.atomic_files import write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.json_io import from_json, to_json

MANIFEST_SUFFIX = ".toml"
_EXAMPLE = 'source = "photos", count = 512 and sha256 = "..."'


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageManifest:
    """A drawn set of images.

    Attributes:
        source: `generated`, or a folder or archive, relative to the manifest's folder.
        count: Number of images drawn.
        sha256: Digest of the images drawn, see Images.sha256.
        seed: Seed of a random sample; None for evenly spaced images.
        preprocessing: Changes to the model's preprocessing.
    """

    source: Annotated[str, Meta(min_length=1)]
    count: Annotated[int, Meta(ge=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    seed: Annotated[int, Meta(ge=0)] | None = None
    preprocessing: Overrides = NO_OVERRIDES

    def data(self, path: Path) -> str | Path:
        """Return the `data` argument of open_images, for the manifest at path."""
        return GENERATED if self.source == GENERATED else path.parent / self.source


def read_image_manifest(path: str | Path) -> ImageManifest:
    """Read a manifest.

    Raises:
        DeployError: The file does not exist or is not a manifest.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        _reject_unknown_keys(table, ImageManifest, "")
        if isinstance(inner := table.get("preprocessing"), dict):
            _reject_unknown_keys(inner, Overrides, "preprocessing.")
        manifest = from_json(to_json(table), ImageManifest)
    except FileNotFoundError as error:
        raise DeployError(
            f"{path} does not exist.", code="file-not-found", fix="name an existing manifest with --data"
        ) from error
    except OSError as error:
        raise DeployError(
            f"{path} can't be read: {error.strerror}.",
            code="file-unreadable",
            fix="check the file's permissions",
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DeployError(
            f"{path} is not a manifest of images: {error}.",
            code="image-manifest-invalid",
            fix=f"correct its keys, for example {_EXAMPLE}",
        ) from error
    if manifest.source.endswith(MANIFEST_SUFFIX):
        raise DeployError(
            f"The source of {path} is another manifest, {manifest.source}.",
            code="image-manifest-nested",
            fix="set its source to a folder or an archive",
        )
    return manifest


def require_unchanged(path: Path, manifest: ImageManifest, images: Images) -> None:
    """Check that the images drawn now are those that the manifest was written for.

    Raises:
        DeployError: They have changed, or some are missing.
    """
    if images.sha256 == manifest.sha256:
        return
    if images.count < manifest.count:
        raise DeployError(
            f"{path} lists {manifest.count} images of {manifest.source}, which now has {images.count}.",
            code="images-changed",
            fix="restore the missing images, or write a new manifest",
        )
    raise DeployError(
        f"The images of {path} have changed: the {images.count} now drawn from the {images.available} of "
        f"{manifest.source} are not those it was written for.",
        code="images-changed",
        fix=f'restore the original images, or accept the new ones: write sha256 = "{images.sha256}" into it',
    )


def require_image_manifest(path: str | Path, images: Images) -> None:
    """Check that write_image_manifest can describe these images.

    Raises:
        DeployError: The path is not a .toml file, the images come from a manifest or are a subset of those
            drawn, or their path is not UTF-8.
    """
    path = Path(path)
    if path.suffix != MANIFEST_SUFFIX:
        raise DeployError(
            f"{path} does not end in {MANIFEST_SUFFIX}, as manifests do.",
            code="invalid-output-name",
            fix=f"name it {path.with_suffix(MANIFEST_SUFFIX)}",
        )
    if images.source.endswith(MANIFEST_SUFFIX) or images.is_subset:
        raise DeployError(
            f"A manifest can't describe a subset of a draw or images of another manifest ({images.source}).",
            code="image-manifest-unsupported",
            fix="draw the images from a folder or an archive",
        )
    _source_from(path, images)


def write_image_manifest(path: str | Path, images: Images, *, overrides: Overrides = NO_OVERRIDES) -> None:
    """Write a manifest of these images.

    Args:
        path: A .toml file. It refers to the images by their path relative to its folder.
        images: The result of open_images.
        overrides: The changes that were made to the model's preprocessing.

    Raises:
        DeployError: See require_image_manifest; or the file can't be written.
    """
    path = Path(path)
    require_image_manifest(path, images)
    own: dict[str, Any] = {
        "source": _source_from(path, images),
        "count": images.count,
        "seed": images.seed,
        "sha256": images.sha256,
    }
    changed = {field.name: getattr(overrides, field.name) for field in fields(overrides)}
    lines = ["# Images drawn by deploykit. Pass this file to --data to draw the same images.", *_lines(own)]
    if given := _lines(changed):
        lines += ["", "[preprocessing]", *given]
    write_atomically(path, "\n".join(lines).encode() + b"\n")


def _source_from(path: Path, images: Images) -> str:
    """Return the images' source as the manifest names it."""
    source = images.source
    if source != GENERATED:
        source = os.path.relpath(Path(source).absolute(), path.parent.resolve())
        source = f"./{source}" if source == GENERATED else source
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise DeployError(
            f"The path {source!r} is not UTF-8, which TOML requires.",
            code="invalid-file-name",
            fix="rename the folder",
        ) from error
    return source


def _lines(table: Mapping[str, Any]) -> list[str]:
    """Return TOML lines of strings, numbers and tuples. But for one character, JSON values are valid TOML."""
    return [
        f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
        for key, value in table.items()
        if value is not None
    ]


def _reject_unknown_keys(table: Mapping[str, object], kind: type, prefix: str) -> None:
    known = [field.name for field in fields(kind)]
    if unknown := [name for name in table if name not in known]:
        raise ValueError(f"{prefix}{unknown[0]} is not one of its keys: {', '.join(known)}")
