"""Records on disk: written once, never changed, and read back whole or refused."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from deploykit.bench.accuracy_record import AccuracyRecord
from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.record import FORMAT, Record
from deploykit.util.atomic_files import require_writable, write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.json_io import SEAL, from_json, from_sealed_json, to_sealed_json

MAX_RECORD_BYTES = 64 * 2**20

AnyRecord = Record | LayerProfile | AccuracyRecord
_KINDS: dict[str, type[AnyRecord]] = {"latency": Record, "layers": LayerProfile, "accuracy": AccuracyRecord}


class _Heading(msgspec.Struct):
    """What is read first: format 1 had one kind, and did not name it."""

    format: int
    kind: str = "latency"


def write_record(record: AnyRecord, folder: Path) -> Path:
    """Writes it under a name of its own, which tells what was measured, and when.

    Raises:
        DeployError: the folder can't be written, the file is there, or it would be too large to be read.
    """
    content = to_sealed_json(record)
    if (size := len(content.encode())) > MAX_RECORD_BYTES:
        raise DeployError(
            f"A record of {size / 2**20:.0f} MiB is too large: {MAX_RECORD_BYTES // 2**20} are read at most.",
            code="record-too-large",
            fix="measure for fewer --seconds, or with fewer --samples",
        )
    moment = record.started.replace("-", "").replace(":", "").partition("+")[0]
    path = folder / f"{record.name}.{moment}.json"
    require_writable(path)
    if path.exists():
        raise DeployError(
            f"{path} is there, and records are not replaced.",
            code="file-exists",
            fix="name another folder with -o",
        )
    write_atomically(path, content)
    return path


def require_record_folder(folder: Path) -> None:
    """Fails now rather than after measuring.

    Raises:
        DeployError: it is a file, or can't be written.
    """
    if folder.exists() and not folder.is_dir():
        raise DeployError(
            f"{folder} is a file; records go into a folder.",
            code="output-not-a-folder",
            fix="name a folder with -o",
        )
    require_writable(folder / "record.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFolder:
    """Attributes:
    records: by their files, in order of these.
    strays: files of JSON that is no record's.
    """

    records: dict[Path, AnyRecord]
    strays: tuple[Path, ...]


def read_record_folder(folder: Path) -> RecordFolder:
    """The records in a folder, not in folders of it.

    Raises:
        DeployError: one is damaged, see read_any. What is whole and claims to be no record is none.
    """
    files = sorted(folder.glob("*.json"))
    strays = tuple(path for path in files if _is_stray(path))
    return RecordFolder(
        records={path: read_any_record(path) for path in files if path not in strays}, strays=strays
    )


def _is_stray(path: Path) -> bool:
    """Whether it is JSON that has neither a record's format nor its seal."""
    try:
        fields = from_json(path.read_bytes(), Any) if path.stat().st_size <= MAX_RECORD_BYTES else {SEAL: ""}
    except (OSError, ValueError):
        return False  # it may have been a record, before it was cut short
    return not (isinstance(fields, dict) and (SEAL in fields or "format" in fields))


def read_record(path: str | Path) -> Record:
    """A measurement that write_record wrote.

    Raises:
        DeployError: see read_any; or it is a record of something else.
    """
    found = read_any_record(path)
    if not isinstance(found, Record):
        raise DeployError(
            f"{path} is a record of {found.kind}, not of latency or throughput.",
            code="record-wrong-kind",
            fix="give a record that deploykit bench wrote without --layers",
        )
    return found


def read_any_record(path: str | Path) -> AnyRecord:
    """What write_record wrote.

    Raises:
        DeployError: it is missing, too large, cut short, altered, of another format, or no record.
    """
    path = Path(path)
    if not path.is_file():
        raise DeployError(
            f"There is no record {path}.",
            code="record-not-found",
            fix="deploykit bench -o FOLDER writes records",
        )
    try:
        size = path.stat().st_size
        if size > MAX_RECORD_BYTES:
            raise DeployError(
                f"{path} has {size / 2**20:.0f} MiB; records have {MAX_RECORD_BYTES // 2**20} at most.",
                code="record-too-large",
                fix="give a record that deploykit bench wrote",
            )
        data = path.read_bytes()
    except OSError as error:
        raise DeployError(
            f"{path} can't be read: {error.strerror}.",
            code="file-unreadable",
            fix="ask for the right to read it",
        ) from error
    try:
        heading = from_json(data, _Heading)
        if heading.format != FORMAT and heading.kind in _KINDS:
            raise DeployError(
                f"{path} is a record of format {heading.format}; this deploykit reads format {FORMAT}.",
                code="record-format-unsupported",
                fix="measure again, or read it with the deploykit that wrote it",
            )
        if heading.kind not in _KINDS:
            raise ValueError(f"of no kind that is known: {heading.kind!r}")
        return from_sealed_json(data, _KINDS[heading.kind])
    except ValueError as error:
        raise DeployError(
            f"{path} is no record, or was cut short or altered ({error}).",
            code="record-damaged",
            fix="copy it again, or remove it and measure again",
        ) from error
