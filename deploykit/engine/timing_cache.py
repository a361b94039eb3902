"""What TensorRT measured of its kernels, kept for the next build: one file a version and GPU.

A build without it takes longer, and is no worse: what is wrong with the file is told, and passed over.
"""

import hashlib
import logging
import re
from pathlib import Path
from typing import Any

from deploykit.engine.compilers import COMPILERS
from deploykit.engine.targets import Target
from deploykit.util.atomic_files import write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.user_cache import cache_folder

_log = logging.getLogger(__name__)


def timing_cache_path(target: Target, version: str) -> Path:
    """In the user's cache folder; reuse needs the same version and GPU."""
    gpu = re.sub(r"[^a-z0-9]+", "-", target.name.lower()).strip("-")
    return cache_folder() / "timing" / f"tensorrt-{version}-{gpu}-sm{target.sm}.cache"


class TimingCache:
    """The timing cache of one build, where the compiler has a use for one.

    Attributes:
        sha256: of what the build started from; None for nothing.
    """

    def __init__(self, trt: Any, config: Any, target: Target) -> None:
        self._config, self._path = config, None
        self.sha256: str | None = None
        if not COMPILERS[target.compiler].timing_cache:
            return
        self._path = timing_cache_path(target, trt.__version__)
        before = _read(self._path)
        cache = config.create_timing_cache(before)
        if cache is None and before:
            _log.warning("note: %s can't be used, and is begun anew.", self._path)
            before, cache = b"", config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            return
        self.sha256 = hashlib.sha256(before).hexdigest() if before else None

    def save(self) -> None:
        """Whole or not at all: of two builds at once the later one's stays."""
        cache = None if self._path is None else self._config.get_timing_cache()
        if self._path is None or cache is None:
            return
        try:
            write_atomically(self._path, bytes(cache.serialize()))
        except DeployError as error:
            _log.warning("note: Timings are not kept for the next build: %s", error.problem)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        _log.warning("note: %s can't be read: %s.", path, error.strerror)
        return b""
