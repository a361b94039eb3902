"""Find Triton, and set up its Python backend for the Python that runs the models.

nvidia-pytriton's wheel includes the server, its Python backend, and a stub for each Python from 3.8 on. The
stub uses the first libpython of its version that the system's loader finds. If that is another build than the
Python whose packages it imports, some import fails. So the Python is asked where its own library is, and the
loader is pointed there.
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

_CONTAINER_EXECUTABLE = Path("/opt/tritonserver/bin/tritonserver")
_INSTALL = f"{install_hint('serve')}, or name a Python that has it with --python"
_QUERY = """
import sys
sys.path[:] = [each for each in sys.path if each]  # ignore the current folder
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
class TritonInstallation:
    """A Triton server on this machine.

    Attributes:
        executable: The server.
        backends: Folder of its backends; None to use the server's default.
        stub: The Python backend's stub, if it is not in that folder.
        variables: Environment variables that the server needs.
    """

    executable: Path
    backends: Path | None
    stub: Path | None
    variables: Mapping[str, str]

    @property
    def is_bundled(self) -> bool:
        """Whether it comes with nvidia-pytriton, which only has the Python backend."""
        return self.backends is not None

    def supports_option(self, option: str) -> bool:
        """Return whether the server's help lists an option; newer servers have more than the bundled one."""
        if self.is_bundled:
            return False
        try:
            shown = subprocess.run(  # noqa: S603  # the executable was located here
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
        """Arrange backends so that the server finds the stub and this package; None if it finds its own.

        Args:
            folder: A folder to create.
        """
        if self.backends is None or self.stub is None:
            return None
        python = folder / "python"
        python.mkdir(parents=True)
        package = Path(deploykit.__file__).parent  # the stub imports from that folder last
        for each in [*(self.backends / "python").iterdir(), self.stub, package]:
            (python / each.name).symlink_to(each)
        return folder


def find_triton(python: str | Path | None = None) -> TritonInstallation:
    """Find nvidia-pytriton's server, or a separate installation, as in NVIDIA's container.

    Args:
        python: The Python that runs the models; the current one by default.

    Raises:
        DeployError: Triton is not installed, or does not work with that Python.
    """
    named = python or sys.executable
    requested = Path(shutil.which(named) or named)
    facts = _query(requested)
    first_on_path = f"{requested.absolute().parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if facts["pytriton"] is not None:
        return _bundled(requested, facts, first_on_path)
    standalone = shutil.which("tritonserver") or (
        _CONTAINER_EXECUTABLE if _CONTAINER_EXECUTABLE.is_file() else None
    )
    if standalone is None:
        raise DeployError("Triton is not installed.", code="triton-not-found", fix=_INSTALL)
    if facts["deploykit"] is None:
        raise DeployError(
            f"deploykit is not installed in {requested}, where Triton's Python backend imports it.",
            code="triton-python-incomplete",
            fix=install_hint(python=str(requested)),
        )
    return TritonInstallation(
        executable=Path(standalone), backends=None, stub=None, variables={"PATH": first_on_path}
    )


def _bundled(python: Path, facts: Mapping[str, Any], first_on_path: str) -> TritonInstallation:
    root = Path(facts["pytriton"])
    server = root / "tritonserver"
    major, minor, _ = facts["version"]
    stub = server / "python_backend_stubs" / f"{major}.{minor}" / "triton_python_backend_stub"
    title = f"nvidia-pytriton {facts['pytriton_version']}"
    if not stub.is_file():
        raise DeployError(
            f"{title} does not support Python {major}.{minor} on {platform.machine()}.",
            code="triton-python-unusable",
            fix="name a Python 3.11, 3.12 or 3.13 with --python",
        )
    libraries_there = [Path(each) for each in facts["libraries"] if ".so" in each and Path(each).is_file()]
    if not libraries_there:
        raise DeployError(
            f"{python} has no shared libpython, which {title} needs.",
            code="triton-python-unusable",
            fix="name another with --python: one from Debian, conda or uv, or built with --enable-shared",
        )
    if facts["old_numpy_alone"] and int((facts["numpy"] or "0").partition(".")[0]) > 1:
        raise DeployError(
            f"{title} reads only zeros from NumPy {facts['numpy']}, which is installed in {python}.",
            code="triton-python-unusable",
            fix="name a Python with NumPy 1 with --python: python3 -m venv triton, then "
            f"{install_hint('cpu', 'serve', python='triton/bin/python')}",
        )
    libraries = [str(libraries_there[0].parent), str(root.parent / "nvidia_pytriton.libs")]
    if before := os.environ.get("LD_LIBRARY_PATH"):
        libraries.append(before)
    return TritonInstallation(
        executable=server / "bin" / "tritonserver",
        backends=server / "backends",
        stub=stub,
        variables={"PATH": first_on_path, "LD_LIBRARY_PATH": os.pathsep.join(libraries)},
    )


def _query(python: Path) -> dict[str, Any]:
    """Ask a Python about itself and its packages.

    Raises:
        DeployError: It is not a Python that can be run.
    """
    try:
        answer = subprocess.run(  # noqa: S603  # the user's own interpreter
            [python, "-c", _QUERY], capture_output=True, text=True, timeout=60, check=True
        )
        facts: dict[str, Any] = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise DeployError(
            f"{python} is not a Python interpreter that can be run.",
            code="triton-python-unusable",
            fix="name one with --python, for example --python .venv/bin/python",
        ) from error
    return facts
