"""calibration/*.toml: which images were drawn from where, so that the same ones are drawn again."""

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
    """What a manifest file says.

    Attributes:
        source: `generated`, or a folder or archive, relative to the manifest's own folder.
        count: how many images are drawn.
        seed: they are a random sample; None: at even distances.
        sha256: of the images drawn, see Images.sha256.
        preprocessing: what to do differently from what the model says.
    """

    source: Annotated[str, Meta(min_length=1)]
    count: Annotated[int, Meta(ge=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    seed: Annotated[int, Meta(ge=0)] | None = None
    preprocessing: Overrides = NO_OVERRIDES

    def data(self, path: Path) -> str | Path:
        """What open_images takes, for the manifest at path."""
        return GENERATED if self.source == GENERATED else path.parent / self.source


def read_image_manifest(path: Path) -> ImageManifest:
    """The manifest in a file.

    Raises:
        DeployError: there is none, or something else than a manifest.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        _refuse_unknown(table, ImageManifest, "")
        if isinstance(inner := table.get("preprocessing"), dict):
            _refuse_unknown(inner, Overrides, "preprocessing.")
        manifest = from_json(to_json(table), ImageManifest)
    except FileNotFoundError as error:
        raise DeployError(
            f"There is no file {path}.", code="file-not-found", fix="give --data an existing manifest"
        ) from error
    except OSError as error:
        raise DeployError(
            f"{path} can't be read: {error.strerror}.", code="file-unreadable", fix="give a file you may read"
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DeployError(
            f"{path} is not a manifest of images: {error}.",
            code="image-manifest-invalid",
            fix=f"write {_EXAMPLE} into it",
        ) from error
    if manifest.source.endswith(MANIFEST_SUFFIX):
        raise DeployError(
            f"{path} names another manifest, {manifest.source}.",
            code="image-manifest-nested",
            fix="name images as its source",
        )
    return manifest


def require_unchanged(path: Path, manifest: ImageManifest, images: Images) -> None:
    """Sees that the images drawn now are those that the manifest was written for.

    Raises:
        DeployError: they are not, or there are not as many.
    """
    if images.sha256 == manifest.sha256:
        return
    if images.count < manifest.count:
        raise DeployError(
            f"{path} names {manifest.count} images of {manifest.source}, which holds {images.count} now.",
            code="images-changed",
            fix="bring the missing ones back, or write the manifest again",
        )
    raise DeployError(
        f"The images that {path} names have changed: the {images.count} drawn from the {images.available} of "
        f"{manifest.source} now are not those it was written for.",
        code="images-changed",
        fix=f'bring those back, or take these by writing sha256 = "{images.sha256}" into it',
    )


def require_image_manifest(path: Path, images: Images) -> None:
    """Fails where write_manifest would.

    Raises:
        DeployError: path is no .toml; the images are from a manifest already, or part of what was drawn; or
            their name is not UTF-8.
    """
    if path.suffix != MANIFEST_SUFFIX:
        raise DeployError(
            f"{path} is no name of a manifest.",
            code="invalid-output-name",
            fix=f"call it {path.with_suffix(MANIFEST_SUFFIX)}",
        )
    if images.source.endswith(MANIFEST_SUFFIX) or images.is_subset:
        raise DeployError(
            f"{images.count} images of {images.source} can't be written down as a draw of their own.",
            code="image-manifest-unsupported",
            fix="draw them from a folder or an archive",
        )
    _source_from(path, images)


def write_image_manifest(path: Path, images: Images, *, overrides: Overrides = NO_OVERRIDES) -> None:
    """Writes down which images these are.

    Args:
        path: a .toml file. It refers to the images by their way from its folder.
        images: as open_images gave them.
        overrides: what was done to them differently from what the model says.

    Raises:
        DeployError: path is no .toml; the images are from a manifest already, or part of what was drawn;
            their name is not UTF-8; or the file can't be written.
    """
    require_image_manifest(path, images)
    own: dict[str, Any] = {
        "source": _source_from(path, images),
        "count": images.count,
        "seed": images.seed,
        "sha256": images.sha256,
    }
    changed = {field.name: getattr(overrides, field.name) for field in fields(overrides)}
    lines = ["# Images drawn by deploykit: give this file as --data to draw the same ones.", *_lines(own)]
    if given := _lines(changed):
        lines += ["", "[preprocessing]", *given]
    write_atomically(path, "\n".join(lines).encode() + b"\n")


def _source_from(path: Path, images: Images) -> str:
    """What the manifest calls the images' source."""
    source = images.source
    if source != GENERATED:
        source = os.path.relpath(Path(source).absolute(), path.parent.resolve())
        source = f"./{source}" if source == GENERATED else source
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise DeployError(
            f"The name {source!r} is not UTF-8, as TOML is.",
            code="invalid-file-name",
            fix="rename the folder",
        ) from error
    return source


def _lines(table: Mapping[str, Any]) -> list[str]:
    """TOML's, of texts, numbers and tuples of numbers; JSON's values are TOML's but for one character."""
    return [
        f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
        for key, value in table.items()
        if value is not None
    ]


def _refuse_unknown(table: Mapping[str, object], kind: type, prefix: str) -> None:
    known = [field.name for field in fields(kind)]
    if unknown := [name for name in table if name not in known]:
        raise ValueError(f"{prefix}{unknown[0]} is none of its keys, which are {', '.join(known)}")
