"""Where the engines go that bundles give: the user's cache folder, or one that ends with the process."""

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

MakeEngine = Callable[[], tuple[bytes, EngineManifest]]

TEMPORARY_ENGINE_NOTE = "Its engine goes when the process ends; XDG_CACHE_HOME names a folder to keep it in."
"""Said where why_unwritable gives a reason."""

_ELSEWHERE = "make room there, or name other folders with XDG_CACHE_HOME and TMPDIR"
_log = logging.getLogger(__name__)


class CacheUnwritableError(DeployError):
    """A folder that engines can't be kept in."""


class EngineCache:
    """The engines that one bundle gave here, by name."""

    def __init__(self, key: str) -> None:
        """Args: key: of the bundle, fit for the name of a folder."""
        self._key = key

    def find(self, name: str, machine: RuntimeEnvironment) -> Path | None:
        """The engine of a name, where it is kept, sound, and runs on the machine."""
        with suppress(DeployError, OSError):
            return _sound(self._folder() / name, machine)
        return None

    def obtain(self, name: str, machine: RuntimeEnvironment, make: MakeEngine) -> Path:
        """The engine of a name, made by one process of this user where it is not kept.

        Where the cache can't be written it is made for this process alone, and goes when that ends.

        Raises:
            DeployError: no folder can be written, or what make raises.
        """
        made = cache(make)  # once, even where the cache turns out to be full afterwards
        try:
            return _obtain(self._folder(), name, machine, made)
        except CacheUnwritableError as error:
            _log.warning("note: %s %s", error.problem, TEMPORARY_ENGINE_NOTE)
            return _obtain(_temporary_folder(os.getpid()) / self._key, name, machine, made)

    def why_unwritable(self) -> str | None:
        """Why nothing can be kept; None where it can."""
        try:
            folder = self._folder()
            with _told(folder):
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
    """What an engine is kept as: one for each GPU, compiler and deploykit, which spells graphs anew."""
    gpu = target.name if target.sm is None else f"{target.name} sm{target.sm}"
    words = f"{target.compiler} {compiler_version} {gpu} deploykit {__version__}"
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()) + ".engine"


def require_temporary_folder() -> None:
    """Fails where there is no room for temporary files, which compilers need too.

    Raises:
        DeployError: there is none.
    """
    with temporary_folder():
        pass


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """One that goes when its block ends.

    Raises:
        DeployError: it, or a file in it, can't be made.
    """
    with _told(None), tempfile.TemporaryDirectory(prefix="deploykit-") as name:
        yield Path(name)


def _sound(path: Path, machine: RuntimeEnvironment) -> Path | None:
    checks = check_requirements(read_engine_manifest(path), machine)
    return path if all(check.holds for check in checks) else None


def _obtain(folder: Path, name: str, machine: RuntimeEnvironment, make: MakeEngine) -> Path:
    path = folder / name
    with _alone_in(folder):
        with suppress(DeployError, OSError):  # another process may have made it meanwhile
            if found := _sound(path, machine):
                return found
        plan, manifest = make()
        try:
            write_engine(path, plan, manifest)
        except DeployError as error:
            raise CacheUnwritableError(error.problem, code=error.code, fix=_ELSEWHERE) from error
    return path


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Alone among all processes of this user that make an engine there."""
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        with suppress(OSError):  # some network file systems know no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _told(folder: Path | None) -> Iterator[None]:
    """Tells of a folder, None for temporary ones, that can't be written."""
    try:
        yield
    except OSError as error:
        which = f"The cache folder {folder}" if folder else "A folder for temporary files"
        raise CacheUnwritableError(
            f"{which} can't be written: {error.strerror}.", code="cache-unwritable", fix=_ELSEWHERE
        ) from error


@cache
def _temporary_folder(owner_pid: int) -> Path:
    """The own one of a process, which goes when that ends; its forks have theirs."""
    with _told(None):
        folder = Path(tempfile.mkdtemp(prefix="deploykit-"))
    atexit.register(_remove, folder, owner_pid)
    return folder


def _remove(folder: Path, owner_pid: int) -> None:
    if os.getpid() == owner_pid:
        shutil.rmtree(folder, ignore_errors=True)
