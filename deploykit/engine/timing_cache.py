"""TensorRT's kernel timings, saved for the next build: one file per version and GPU.

Without it a build takes longer but is equally good, so problems with the file only cause a warning.
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
    """Return the file for a target and TensorRT version, in the user's cache folder."""
    gpu = re.sub(r"[^a-z0-9]+", "-", target.name.lower()).strip("-")
    return cache_folder() / "timing" / f"tensorrt-{version}-{gpu}-sm{target.sm}.cache"


class TimingCache:
    """The timing cache of one build, if the compiler uses one.

    Attributes:
        sha256: Digest of the timings that the build started from; None without any.
    """

    def __init__(self, trt: Any, config: Any, target: Target) -> None:
        self._config, self._path = config, None
        self.sha256: str | None = None
        if not COMPILERS[target.compiler].timing_cache:
            return
        self._path = timing_cache_path(target, trt.__version__)
        previous = _read(self._path)
        cache = config.create_timing_cache(previous)
        if cache is None and previous:
            _log.warning("note: Timing cache %s is unusable; starting an empty one.", self._path)
            previous, cache = b"", config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            return
        self.sha256 = hashlib.sha256(previous).hexdigest() if previous else None

    def save(self) -> None:
        """Write the timings atomically. Of two simultaneous builds the later one wins."""
        cache = None if self._path is None else self._config.get_timing_cache()
        if self._path is None or cache is None:
            return
        try:
            write_atomically(self._path, bytes(cache.serialize()))
        except DeployError as error:
            _log.warning("note: Kernel timings are not saved for the next build: %s", error.problem)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        _log.warning("note: Timing cache %s can't be read: %s.", path, error.strerror)
        return b""
