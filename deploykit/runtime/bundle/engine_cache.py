"""Where engines from bundles are kept: the user's cache folder, or a folder that ends with the process."""

import atexit
import fcntl
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from deploykit import __version__
from deploykit.engine.manifest import EngineManifest, read_engine_manifest, write_engine
from deploykit.engine.targets import Target
from deploykit.runtime.preflight import RuntimeEnvironment, check_requirements
from deploykit.util.errors import DeployError
from deploykit.util.user_cache import cache_folder

CreateEngine = Callable[[], tuple[bytes, EngineManifest]]
"""Returns a plan and its manifest."""

TEMPORARY_ENGINE_NOTE = (
    "The engine is deleted when the process ends; set XDG_CACHE_HOME to a folder where it can be kept."
)
"""Shown with the reason that unwritable_reason returns."""

_UNWRITABLE_FIX = "free some space there, or set XDG_CACHE_HOME and TMPDIR to other folders"
_log = logging.getLogger(__name__)


class CacheUnwritableError(DeployError):
    """An error about a folder in which engines cannot be kept."""


class EngineCache:
    """The cached engines of one bundle, by name."""

    def __init__(self, key: str) -> None:
        """Open the cache of a bundle.

        Args:
            key: Identifies the bundle; used as a folder name.
        """
        self._key = key

    def find(self, name: str, environment: RuntimeEnvironment) -> Path | None:
        """Return a cached engine that is undamaged and runs on the machine; None if there is none."""
        with suppress(DeployError, OSError):
            return _find_runnable(self._folder() / name, environment)
        return None

    def get_or_create(self, name: str, environment: RuntimeEnvironment, create: CreateEngine) -> Path:
        """Return the engine with this name; one process of the user creates it if it is not cached.

        If the cache cannot be written, the engine is created for this process and deleted when it ends.

        Raises:
            DeployError: No folder can be written, or `create` failed.
        """
        create_once = cache(create)  # only once, even if the cache turns out to be full afterwards
        try:
            return _get_or_create(self._folder(), name, environment, create_once)
        except CacheUnwritableError as error:
            _log.warning("note: %s %s", error.problem, TEMPORARY_ENGINE_NOTE)
            return _get_or_create(_temporary_folder(os.getpid()) / self._key, name, environment, create_once)

    def unwritable_reason(self) -> str | None:
        """Return why nothing can be cached; None if it can."""
        try:
            folder = self._folder()
            with _report_unwritable(folder):
                nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
                tempfile.TemporaryFile(dir=nearest).close()
        except CacheUnwritableError as error:
            return error.problem
        return None

    def _folder(self) -> Path:
        try:
            return cache_folder() / "bundles" / self._key
        except DeployError as error:
            raise CacheUnwritableError(error.problem, code=error.code, fix=error.fix) from error


def cached_engine_name(target: Target, compiler_version: str) -> str:
    """Return the file name of a cached engine.

    It depends on the GPU, the compiler and the deploykit version, because each version may lower graphs
    differently.
    """
    gpu = target.name if target.sm is None else f"{target.name} sm{target.sm}"
    words = f"{target.compiler} {compiler_version} {gpu} deploykit {__version__}"
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()) + ".engine"


def require_temporary_folder() -> None:
    """Raise an error if there is no room for temporary files, which compilers need too.

    Raises:
        DeployError: Temporary files cannot be written.
    """
    with temporary_folder():
        pass


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a temporary folder that is deleted when the block ends.

    Raises:
        DeployError: The folder, or a file in it, cannot be created.
    """
    with _report_unwritable(None), tempfile.TemporaryDirectory(prefix="deploykit-") as name:
        yield Path(name)


def _find_runnable(path: Path, environment: RuntimeEnvironment) -> Path | None:
    checks = check_requirements(read_engine_manifest(path), environment)
    return path if all(check.holds for check in checks) else None


def _get_or_create(folder: Path, name: str, environment: RuntimeEnvironment, create: CreateEngine) -> Path:
    path = folder / name
    with _lock_folder(folder):
        with suppress(DeployError, OSError):  # another process may have created it meanwhile
            if found := _find_runnable(path, environment):
                return found
        plan, manifest = create()
        try:
            write_engine(path, plan, manifest)
        except DeployError as error:
            raise CacheUnwritableError(error.problem, code=error.code, fix=_UNWRITABLE_FIX) from error
    return path


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Exclude other processes of this user that create an engine in the folder."""
    with _report_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        with suppress(OSError):  # some network file systems do not support locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _report_unwritable(folder: Path | None) -> Iterator[None]:
    """Turn errors of writing a folder, None for temporary folders, into CacheUnwritableError."""
    try:
        yield
    except OSError as error:
        which = f"The cache folder {folder}" if folder else "The folder for temporary files"
        raise CacheUnwritableError(
            f"{which} cannot be written: {error.strerror}.", code="cache-unwritable", fix=_UNWRITABLE_FIX
        ) from error


@cache
def _temporary_folder(owner_pid: int) -> Path:
    """Create the folder of a process, deleted when it ends; forked processes get another one."""
    with _report_unwritable(None):
        folder = Path(tempfile.mkdtemp(prefix="deploykit-"))
    atexit.register(_remove, folder, owner_pid)
    return folder


def _remove(folder: Path, owner_pid: int) -> None:
    if os.getpid() == owner_pid:
        shutil.rmtree(folder, ignore_errors=True)
