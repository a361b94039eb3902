"""The progress of an interrupted calibration, saved beside its future ranges file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from deploykit.data.images.selection import Images
from deploykit.quantize.calibration.ranges import Ranges, RangesFile
from deploykit.util.atomic_files import write_atomically
from deploykit.util.json_io import from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class _CheckpointFile:
    images_sha256: str
    position: Annotated[int, Meta(ge=1)]
    ranges: RangesFile


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationCheckpoint:
    """A file with the ranges of the images counted so far."""

    path: Path

    @staticmethod
    def beside(ranges: Path) -> "CalibrationCheckpoint":
        """Return the checkpoint that belongs to a future ranges file."""
        return CalibrationCheckpoint(path=ranges.with_name(f"{ranges.name}.partial"))

    def save(self, images: Images, position: int, ranges: Ranges) -> None:
        """Save the ranges of the images before a position."""
        file = _CheckpointFile(
            images_sha256=images.sha256, position=position, ranges=RangesFile.from_ranges(ranges)
        )
        write_atomically(self.path, to_json(file, indent=0))

    def load(self, images: Images, onnx_sha256: str) -> tuple[int, Ranges] | None:
        """Return the position to continue from and the ranges so far.

        None means that nothing is saved for this model and these images.
        """
        try:
            file = from_json(self.path.read_bytes(), _CheckpointFile)
            ranges = file.ranges.to_ranges()
        except (FileNotFoundError, ValueError):
            return None
        matches = (
            ranges.onnx_sha256 == onnx_sha256
            and ranges.preprocessing == images.preprocessing
            and file.images_sha256 == images.sha256
            and file.position <= images.count
        )
        return (file.position, ranges) if matches else None

    def remove(self) -> None:
        """Delete the file, if it exists."""
        self.path.unlink(missing_ok=True)
