"""What a calibration has done so far, beside where its ranges will be: interrupted, it goes on from there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from deploykit.data.images.selection import Images
from deploykit.quantize.calibration.ranges import Ranges, RangesFile
from deploykit.util.atomic_files import write_atomically
from deploykit.util.json_io import from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    images_sha256: str
    position: Annotated[int, Meta(ge=1)]
    ranges: RangesFile


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationCheckpoint:
    path: Path

    @staticmethod
    def beside(ranges: Path) -> "CalibrationCheckpoint":
        return CalibrationCheckpoint(path=ranges.with_name(f"{ranges.name}.partial"))

    def save(self, images: Images, position: int, ranges: Ranges) -> None:
        """Keeps ranges of the images before position."""
        file = _File(images_sha256=images.sha256, position=position, ranges=RangesFile.of(ranges))
        write_atomically(self.path, to_json(file, indent=0))

    def load(self, images: Images, onnx_sha256: str) -> tuple[int, Ranges] | None:
        """Where to go on and what there is so far; None where nothing of this model and images is kept."""
        try:
            file = from_json(self.path.read_bytes(), _File)
            ranges = file.ranges.to_ranges()
        except (FileNotFoundError, ValueError):
            return None
        same = (
            ranges.onnx_sha256 == onnx_sha256
            and ranges.preprocessing == images.preprocessing
            and file.images_sha256 == images.sha256
            and file.position <= images.count
        )
        return (file.position, ranges) if same else None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
