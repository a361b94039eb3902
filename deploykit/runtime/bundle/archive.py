"""The bundle file: an uncompressed ZIP archive of bundle.json, model.onnx and the plans it lists.

Only files that bundle.json lists are read. Each must occur once, uncompressed, and match its digest.
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

_RECOPY_FIX = "copy the bundle again, or recreate it: deploykit bundle"
_CHUNK_BYTES = 2**20
# What zipfile raises for a modified archive; RuntimeError if it is encrypted.
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile)

PlanName = Annotated[str, Meta(pattern=r"^plans/[0-9]+\.engine$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledPlan:
    """A plan in a bundle.

    Attributes:
        name: Name of its file in the archive.
    """

    name: PlanName
    manifest: EngineManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleContents:
    """The contents of bundle.json.

    Attributes:
        model: What model.onnx says about itself.
        onnx_sha256: Digest of model.onnx.
        fp32_sha256: Digest of the FP32 model that it and all plans were made from.
        precision: Precision to build if no plan runs; FP16 becomes FP32 on a CPU.
        batches, side: Sizes to build for.
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
        """The digest of each file by name."""
        return {
            MODEL_NAME: self.onnx_sha256,
            **{plan.name: plan.manifest.engine_sha256 for plan in self.plans},
        }


def read_bundle_contents(path: str | Path) -> tuple[BundleContents, str]:
    """Read bundle.json and return it with its digest.

    Raises:
        DeployError: The file is not a bundle, or was modified or truncated.
    """
    if not Path(path).is_file():
        raise DeployError(
            f"Bundle {path} does not exist.",
            code="bundle-not-found",
            fix="create it: deploykit bundle MODEL ENGINE... -o b3.dkb",
        )
    with _open_archive(path, f"{path} is not a bundle, or is damaged") as archive:
        if archive.getinfo(CONTENTS_NAME).file_size > MAX_CONTENTS_BYTES:
            raise ValueError("bundle.json is too large")
        text = b"".join(_read_chunks(archive, CONTENTS_NAME))
        return _decode_contents(text), hashlib.sha256(text).hexdigest()


def verify_bundle_files(path: str | Path, contents: BundleContents) -> None:
    """Read every file of a bundle and compare it with its digest.

    Raises:
        DeployError: A file does not match; the message names it.
    """
    for name, sha256 in contents.sha256s.items():
        for _ in _read_verified(path, name, sha256):
            pass


def read_bundled_file(path: str | Path, contents: BundleContents, name: str) -> bytes:
    """Read one file of a bundle.

    Raises:
        DeployError: It is missing or does not match its digest.
    """
    return b"".join(_read_verified(path, name, contents.sha256s[name]))


def write_bundle_file(path: str | Path, contents: BundleContents, files: Mapping[str, bytes]) -> None:
    """Write a bundle; the same files give the same bytes.

    Raises:
        DeployError: The file cannot be written, or bundle.json would be too large to be read.
    """
    text = to_sealed_json(contents).encode()
    if len(text) > MAX_CONTENTS_BYTES:
        raise DeployError(
            f"bundle.json would have {len(text)} bytes, but {MAX_CONTENTS_BYTES} is the limit.",
            code="bundle-too-large",
            fix="bundle fewer engines",
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {CONTENTS_NAME: text, **files}.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    write_atomically(Path(path), buffer.getvalue())


def looks_like_bundle(path: str | Path) -> bool:
    """Return whether a file starts like a bundle, even if the rest is damaged; other ZIP archives do not."""
    with Path(path).open("rb") as file:
        start = file.read(30 + len(CONTENTS_NAME))  # a local file header and the first file's name
    return start.startswith(b"PK\x03\x04") and start.endswith(CONTENTS_NAME.encode())


def _read_verified(path: str | Path, name: str, sha256: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    with _open_archive(path, f"{name} in {path} cannot be read") as archive:
        for chunk in _read_chunks(archive, name):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != sha256:
        raise DeployError(
            f"{name} in {path} does not match its digest in bundle.json.",
            code="bundle-damaged",
            fix=_RECOPY_FIX,
        )


def _read_chunks(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    """Yield a file in chunks, because the size that the archive states cannot be trusted."""
    if (count := archive.namelist().count(name)) != 1:
        raise ValueError(f"it contains {name} {count} times")
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    with archive.open(name) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _decode_contents(text: bytes) -> BundleContents:
    """Decode bundle.json.

    Raises:
        ValueError: It is invalid or was modified.
    """
    try:
        return from_sealed_json(text, BundleContents)
    except DeployError as error:  # sizes out of range
        raise ValueError(error.problem) from error


@contextmanager
def _open_archive(path: str | Path, problem: str) -> Iterator[zipfile.ZipFile]:
    """Open an archive and turn whatever goes wrong with it into an error with this problem.

    Raises:
        DeployError: Reading failed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _UNREADABLE as error:
        raise DeployError(
            f"{problem} ({str(error) or 'the file is truncated'}).", code="bundle-damaged", fix=_RECOPY_FIX
        ) from error
