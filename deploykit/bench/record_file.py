"""Records on disk: written once, never changed, and read back whole or refused."""

from pathlib import Path

import msgspec

from deploykit.bench.accuracy import Accuracy
from deploykit.bench.layer_profile import LayerProfile
from deploykit.bench.record import FORMAT, Record
from deploykit.errors import DeployError
from deploykit.files import require_writable, write_atomically
from deploykit.serial import from_json, from_sealed_json, to_sealed_json

LARGEST_BYTES = 64 * 2**20

AnyRecord = Record | LayerProfile | Accuracy
_KINDS: dict[str, type[AnyRecord]] = {"latency": Record, "layers": LayerProfile, "accuracy": Accuracy}


class _Heading(msgspec.Struct):
    """What is read first: format 1 had one kind, and did not name it."""

    format: int
    kind: str = "latency"


def write_record(record: AnyRecord, folder: Path) -> Path:
    """Writes it under a name of its own, which tells what was measured, and when.

    Raises:
        DeployError: the folder can't be written, or the file is there.
    """
    moment = record.started.replace("-", "").replace(":", "").partition("+")[0]
    path = folder / f"{record.name}.{moment}.json"
    require_writable(path)
    if path.exists():
        raise DeployError(
            f"{path} is there, and records are not replaced.", fix="name another folder with -o"
        )
    write_atomically(path, to_sealed_json(record))
    return path


def read_record(path: str | Path) -> Record:
    """A measurement that write_record wrote.

    Raises:
        DeployError: see read_any; or it is a record of something else.
    """
    found = read_any(path)
    if not isinstance(found, Record):
        raise DeployError(
            f"{path} is a record of {found.kind}, not of latency or throughput.",
            fix="give a record that deploykit bench wrote without --layers",
        )
    return found


def read_any(path: str | Path) -> AnyRecord:
    """What write_record wrote.

    Raises:
        DeployError: it is missing, too large, cut short, altered, of another format, or no record.
    """
    path = Path(path)
    if not path.is_file():
        raise DeployError(f"There is no record {path}.", fix="deploykit bench -o FOLDER writes records")
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise DeployError(
                f"{path} has {size / 2**20:.0f} MiB; records have {LARGEST_BYTES // 2**20} at most.",
                fix="give a record that deploykit bench wrote",
            )
        data = path.read_bytes()
        heading = from_json(data, _Heading)
        if heading.format != FORMAT and heading.kind in _KINDS:
            raise DeployError(
                f"{path} is a record of format {heading.format}; this deploykit reads format {FORMAT}.",
                fix="measure again, or read it with the deploykit that wrote it",
            )
        if heading.kind not in _KINDS:
            raise ValueError(f"of no kind that is known: {heading.kind!r}")
        return from_sealed_json(data, _KINDS[heading.kind])
    except (OSError, ValueError) as error:
        raise DeployError(
            f"{path} is no record, or was cut short or altered ({error}).",
            fix="copy it again, measure again, or leave it out of what is read",
        ) from error
