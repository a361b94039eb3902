"""What TensorRT measured of its kernels, kept for the next build: one file a version and GPU."""

import hashlib
import re
from pathlib import Path

from deploykit.engine.targets import Target
from deploykit.files import write_atomically
from deploykit.workspace import cache_folder


def timing_cache_path(target: Target, version: str) -> Path:
    """In the user's cache folder; reuse needs the same version and GPU."""
    gpu = re.sub(r"[^a-z0-9]+", "-", target.name.lower()).strip("-")
    return cache_folder() / "timing" / f"tensorrt-{version}-{gpu}-sm{target.sm}.cache"


def load_timing_cache(path: Path) -> bytes:
    """Empty where there is none."""
    return path.read_bytes() if path.is_file() else b""


def save_timing_cache(path: Path, data: bytes) -> None:
    """Whole or not at all: of two builds at once the later one's stays.

    Raises:
        DeployError: the folder can't be written.
    """
    write_atomically(path, data)


def digest(data: bytes) -> str | None:
    return hashlib.sha256(data).hexdigest() if data else None
