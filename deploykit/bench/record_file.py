"""Records on disk: written once, never changed, and read completely or refused."""

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
    """The fields that are read first; format 1 had one kind of record and did not name it."""

    format: int
    kind: str = "latency"


def write_record(record: AnyRecord, folder: str | Path) -> Path:
    """Write a record to a new file, named after what was measured and when.

    Raises:
        DeployError: The folder cannot be written, the file exists, or it would be too large to be read.
    """
    content = to_sealed_json(record)
    if (size := len(content.encode())) > MAX_RECORD_BYTES:
        raise DeployError(
            f"The record has {size / 2**20:.0f} MiB, but {MAX_RECORD_BYTES // 2**20} is the limit.",
            code="record-too-large",
            fix="measure with fewer --seconds or --samples",
        )
    moment = record.started.replace("-", "").replace(":", "").partition("+")[0]
    path = Path(folder) / f"{record.name}.{moment}.json"
    require_writable(path)
    if path.exists():
        raise DeployError(
            f"{path} exists, and records are never replaced.",
            code="file-exists",
            fix="choose another folder with -o",
        )
    write_atomically(path, content)
    return path


def require_record_folder(folder: str | Path) -> None:
    """Raise an error now, rather than after measuring, if records cannot be written to the folder.

    Raises:
        DeployError: It is a file or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise DeployError(
            f"{folder} is a file, but records need a folder.",
            code="output-not-a-folder",
            fix="choose a folder with -o",
        )
    require_writable(folder / "record.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFolder:
    """The records in a folder.

    Attributes:
        records: The records by file, in order of the files.
        strays: JSON files that are not records.
    """

    records: dict[Path, AnyRecord]
    strays: tuple[Path, ...]


def read_record_folder(folder: str | Path) -> RecordFolder:
    """Read the records in a folder, but not in its subfolders.

    Raises:
        DeployError: A record is damaged, see read_any_record. Valid JSON that does not look like a record is
            skipped.
    """
    files = sorted(Path(folder).glob("*.json"))
    strays = tuple(path for path in files if _is_other_json(path))
    return RecordFolder(
        records={path: read_any_record(path) for path in files if path not in strays}, strays=strays
    )


def _is_other_json(path: Path) -> bool:
    """Return whether it is JSON with neither the format nor the seal of a record."""
    try:
        fields = from_json(path.read_bytes(), Any) if path.stat().st_size <= MAX_RECORD_BYTES else {SEAL: ""}
    except (OSError, ValueError):
        return False  # it may be a truncated record
    return not (isinstance(fields, dict) and (SEAL in fields or "format" in fields))


def read_record(path: str | Path) -> Record:
    """Read a measurement of latency or throughput.

    Raises:
        DeployError: As for read_any_record; or it is another kind of record.
    """
    record = read_any_record(path)
    if not isinstance(record, Record):
        raise DeployError(
            f"{path} is a record of {record.kind}, not of latency or throughput.",
            code="record-wrong-kind",
            fix="pass a record that deploykit bench wrote without --layers",
        )
    return record


def read_any_record(path: str | Path) -> AnyRecord:
    """Read a record of any kind.

    Raises:
        DeployError: The file is missing, too large, truncated, modified, of another format, or not a record.
    """
    path = Path(path)
    if not path.is_file():
        raise DeployError(
            f"Record {path} does not exist.",
            code="record-not-found",
            fix="write records: deploykit bench ENGINE -o FOLDER",
        )
    try:
        size = path.stat().st_size
        if size > MAX_RECORD_BYTES:
            raise DeployError(
                f"{path} has {size / 2**20:.0f} MiB, but a record has at most {MAX_RECORD_BYTES // 2**20}.",
                code="record-too-large",
                fix="pass a record that deploykit bench wrote",
            )
        data = path.read_bytes()
    except OSError as error:
        raise DeployError(
            f"{path} cannot be read: {error.strerror}.",
            code="file-unreadable",
            fix=f"allow reading it: chmod +r {path}",
        ) from error
    try:
        heading = from_json(data, _Heading)
        if heading.format != FORMAT and heading.kind in _KINDS:
            raise DeployError(
                f"{path} has record format {heading.format}, but this version of deploykit reads format "
                f"{FORMAT}.",
                code="record-format-unsupported",
                fix="measure again, or read it with the version that wrote it",
            )
        if heading.kind not in _KINDS:
            raise ValueError(f"unknown kind {heading.kind!r}")
        return from_sealed_json(data, _KINDS[heading.kind])
    except ValueError as error:
        raise DeployError(
            f"{path} is not a record, or was truncated or modified ({error}).",
            code="record-damaged",
            fix="copy it again, or delete it and measure again",
        ) from error
