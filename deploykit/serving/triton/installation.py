"""Finds Triton, and what its Python backend needs to run the Python that it is to run.

nvidia-pytriton's wheel carries the server, its Python backend, and a helper for each Python from 3.8 on. A
helper takes whichever libpython of its version the system's loader finds first, which may be another build
than the Python whose packages are to be imported: it then fails at some import. So the Python is asked where
its own library is, and the loader is told.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deploykit
from deploykit.util.errors import DeployError
from deploykit.util.install_hint import install_hint

_CONTAINERS_OWN = Path("/opt/tritonserver/bin/tritonserver")
_INSTALL = f"{install_hint('serve')}, or name a Python that has it with --python"
_ASK = """
import sys
sys.path[:] = [each for each in sys.path if each]  # not whatever lies in the current folder
import importlib.metadata, importlib.util, json, os, sysconfig
def found(name):
    spec = importlib.util.find_spec(name)
    return os.path.dirname(spec.origin) if spec and spec.origin else None
def version(name):
    try: return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: return None
try: wants = importlib.metadata.requires("nvidia-pytriton") or []
except importlib.metadata.PackageNotFoundError: wants = []
print(json.dumps({
    "version": list(sys.version_info[:3]), "pytriton": found("pytriton"), "deploykit": found("deploykit"),
    "libraries": [os.path.join(folder or "", sysconfig.get_config_var("INSTSONAME") or "")
                  for folder in (sysconfig.get_config_var("LIBDIR"), os.path.join(sys.base_prefix, "lib"))],
    "numpy": version("numpy"), "pytriton_version": version("nvidia-pytriton"),
    "old_numpy_alone": any(w.replace(" ", "").startswith("numpy<2") for w in wants),
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Triton:
    """A Triton server on this machine.

    Attributes:
        backends: the folder of its backends; None for the server's own.
        stub: the Python backend's helper, where the server's folder doesn't have it.
        variables: of the environment it needs.
    """

    executable: Path
    backends: Path | None
    stub: Path | None
    variables: Mapping[str, str]

    @property
    def is_bundled(self) -> bool:
        """Whether it is nvidia-pytriton's, which has the Python backend alone."""
        return self.backends is not None

    def knows(self, option: str) -> bool:
        """Whether its help names an option; later versions have more than the one that is bundled."""
        if self.is_bundled:
            return False
        try:
            shown = subprocess.run(  # noqa: S603  # the server found
                [self.executable, "--help"],
                env={**os.environ, **self.variables},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return False
        return option in shown.stdout + shown.stderr

    def backend_folder(self, folder: Path) -> Path | None:
        """A folder of backends in which the helper is where the server looks for it, with this package.

        Args:
            folder: an empty one, to make it in.
        """
        if self.backends is None or self.stub is None:
            return None
        python = folder / "python"
        python.mkdir(parents=True)
        package = Path(deploykit.__file__).parent  # the folder is where the helper imports from, last of all
        for each in [*(self.backends / "python").iterdir(), self.stub, package]:
            (python / each.name).symlink_to(each)
        return folder


def find_triton(python: str | Path | None = None) -> Triton:
    """nvidia-pytriton's server, or one that is installed by itself, as in NVIDIA's container.

    Args:
        python: what runs the Python backend's models; default the one that runs this.

    Raises:
        DeployError: there is none, or that Python doesn't work with it.
    """
    named = python or sys.executable
    asked = Path(shutil.which(named) or named)
    facts = _ask(asked)
    first_on_path = f"{asked.absolute().parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if facts["pytriton"] is not None:
        return _bundled(asked, facts, first_on_path)
    own = shutil.which("tritonserver") or (_CONTAINERS_OWN if _CONTAINERS_OWN.is_file() else None)
    if own is None:
        raise DeployError("There is no Triton here.", code="triton-not-found", fix=_INSTALL)
    if facts["deploykit"] is None:
        raise DeployError(
            f"{asked} has no deploykit, which Triton's Python backend imports.",
            code="triton-python-incomplete",
            fix=install_hint(python=str(asked)),
        )
    return Triton(executable=Path(own), backends=None, stub=None, variables={"PATH": first_on_path})


def _bundled(python: Path, facts: Mapping[str, Any], first_on_path: str) -> Triton:
    root = Path(facts["pytriton"])
    server = root / "tritonserver"
    major, minor, _ = facts["version"]
    stub = server / "python_backend_stubs" / f"{major}.{minor}" / "triton_python_backend_stub"
    title = f"nvidia-pytriton {facts['pytriton_version']}"
    if not stub.is_file():
        raise DeployError(
            f"{title} has nothing to run models with Python {major}.{minor} on {platform.machine()}.",
            code="triton-python-unusable",
            fix="name a Python of 3.11 to 3.13 with --python",
        )
    libraries_there = [Path(each) for each in facts["libraries"] if ".so" in each and Path(each).is_file()]
    if not libraries_there:
        raise DeployError(
            f"{python} has no shared library of its own, which {title} needs to run models with it.",
            code="triton-python-unusable",
            fix="name another with --python: Debian's, conda's, uv's, or one built with --enable-shared",
        )
    if facts["old_numpy_alone"] and int((facts["numpy"] or "0").partition(".")[0]) > 1:
        raise DeployError(
            f"{title} gets nothing but zeros from NumPy {facts['numpy']}, which {python} has.",
            code="triton-python-unusable",
            fix="name a Python that has NumPy 1 with --python: python3 -m venv triton, then "
            f"{install_hint('cpu', 'serve', python='triton/bin/python')}",
        )
    libraries = [str(libraries_there[0].parent), str(root.parent / "nvidia_pytriton.libs")]
    if before := os.environ.get("LD_LIBRARY_PATH"):
        libraries.append(before)
    return Triton(
        executable=server / "bin" / "tritonserver",
        backends=server / "backends",
        stub=stub,
        variables={"PATH": first_on_path, "LD_LIBRARY_PATH": os.pathsep.join(libraries)},
    )


def _ask(python: Path) -> dict[str, Any]:
    """Raises: DeployError: it is no Python."""
    try:
        answer = subprocess.run(  # noqa: S603  # the user's own interpreter
            [python, "-c", _ASK], capture_output=True, text=True, timeout=60, check=True
        )
        facts: dict[str, Any] = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise DeployError(
            f"{python} is no Python that can be run.",
            code="triton-python-unusable",
            fix="name one with --python, say .venv/bin/python",
        ) from error
    return facts
