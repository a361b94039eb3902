"""The file of a bundle: an uncompressed ZIP archive of bundle.json, model.onnx and the plans it lists.

Only names that bundle.json lists are read. Each is there once, as it is, and is held to its digest.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from deploykit.engine.manifest import EngineManifest
from deploykit.engine.shapes import BatchRange, SideRange
from deploykit.networks.model_info import ModelInfo
from deploykit.util.atomic_files import write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.json_io import from_sealed_json, to_sealed_json
from deploykit.util.types import Precision

CONTENTS_NAME, MODEL_NAME = "bundle.json", "model.onnx"
MAX_CONTENTS_BYTES = 16 * 2**20

_AGAIN = "copy the bundle again, or bundle again"
_CHUNK_BYTES = 2**20
# What zipfile raises where an archive was altered; RuntimeError where it is encrypted.
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile)

_Name = Annotated[str, Meta(pattern=r"^plans/[0-9]+\.engine$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledPlan:
    """Attributes: name: of its file in the archive."""

    name: _Name
    manifest: EngineManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleContents:
    """What bundle.json says.

    Attributes:
        model: what model.onnx says of itself.
        onnx_sha256: digest of model.onnx.
        fp32_sha256: digest of the FP32 model that it and all plans come from.
        precision: what to build where no plan runs; FP16 is FP32 on a CPU.
        batches, side: sizes to build for.
    """

    model: ModelInfo
    onnx_sha256: str
    fp32_sha256: str
    precision: Precision
    batches: Annotated[tuple[BatchRange, ...], Meta(min_length=1)]
    side: SideRange | None
    plans: tuple[BundledPlan, ...]
    deploykit_version: str
    format: Literal[1] = 1

    @property
    def sha256s(self) -> dict[str, str]:
        """The digest of each file it lists."""
        return {
            MODEL_NAME: self.onnx_sha256,
            **{plan.name: plan.manifest.engine_sha256 for plan in self.plans},
        }


def read_bundle_contents(path: Path) -> tuple[BundleContents, str]:
    """What bundle.json says, and its digest.

    Raises:
        DeployError: it is no bundle, or was altered or cut short.
    """
    if not path.is_file():
        raise DeployError(
            f"There is no bundle {path}.", code="bundle-not-found", fix="deploykit bundle makes one"
        )
    with _opened(path, f"{path} is no bundle, or was damaged") as archive:
        if archive.getinfo(CONTENTS_NAME).file_size > MAX_CONTENTS_BYTES:
            raise ValueError("its list is too long")
        text = b"".join(_chunks(archive, CONTENTS_NAME))
        return _decoded(text), hashlib.sha256(text).hexdigest()


def verify_bundle_files(path: Path, contents: BundleContents) -> None:
    """Fails where a file of a bundle is not the one it was bundled as, which reads all of them.

    Raises:
        DeployError: naming the file.
    """
    for name, sha256 in contents.sha256s.items():
        for _ in _verified(path, name, sha256):
            pass


def read_bundled_file(path: Path, contents: BundleContents, name: str) -> bytes:
    """A file of a bundle.

    Raises:
        DeployError: it is missing, or not the one it was bundled as.
    """
    return b"".join(_verified(path, name, contents.sha256s[name]))


def write_bundle_file(path: Path, contents: BundleContents, files: Mapping[str, bytes]) -> None:
    """Writes a bundle; equal files give equal bytes.

    Raises:
        DeployError: it can't be written, or the list of what is in it would be too long to be read.
    """
    text = to_sealed_json(contents).encode()
    if len(text) > MAX_CONTENTS_BYTES:
        raise DeployError(
            f"The list of what is in {path} takes {len(text)} bytes, and {MAX_CONTENTS_BYTES} at most are "
            "read.",
            code="bundle-too-large",
            fix="bundle fewer engines",
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {CONTENTS_NAME: text, **files}.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    write_atomically(path, buffer.getvalue())


def looks_like_bundle(path: Path) -> bool:
    """Whether a file begins as bundles do, whatever became of the rest: other ZIP archives don't."""
    with path.open("rb") as file:
        start = file.read(30 + len(CONTENTS_NAME))  # a local header, and the first file's name
    return start.startswith(b"PK\x03\x04") and start.endswith(CONTENTS_NAME.encode())


def _verified(path: Path, name: str, sha256: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    with _opened(path, f"{name} in {path} can't be read") as archive:
        for chunk in _chunks(archive, name):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != sha256:
        raise DeployError(
            f"{name} in {path} is not the file it was bundled as.", code="bundle-damaged", fix=_AGAIN
        )


def _chunks(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    """A file, a part at a time: what the archive says of its size is not to be believed."""
    if (count := archive.namelist().count(name)) != 1:
        raise ValueError(f"{name} is in it {count} times")
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, which bundles are not")
    with archive.open(name) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _decoded(text: bytes) -> BundleContents:
    """The Contents that a text describes.

    Raises:
        ValueError: it describes none, or was altered.
    """
    try:
        return from_sealed_json(text, BundleContents)
    except DeployError as error:  # sizes out of range
        raise ValueError(error.problem) from error


@contextmanager
def _opened(path: Path, problem: str) -> Iterator[zipfile.ZipFile]:
    """An archive; what goes wrong with it is told as a problem.

    Raises:
        DeployError: anything did.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _UNREADABLE as error:
        raise DeployError(
            f"{problem} ({str(error) or 'it ends too early'}).", code="bundle-damaged", fix=_AGAIN
        ) from error
