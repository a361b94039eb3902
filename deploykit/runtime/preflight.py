"""Check whether this machine can run an engine, before deserializing any of it, and how to fix it if not."""

import re
from dataclasses import dataclass
from pathlib import Path

from deploykit.engine.compilers import COMPILERS
from deploykit.engine.manifest import EngineManifest, read_engine_manifest
from deploykit.engine.targets import Target
from deploykit.onnx_tools.ort_session import CUDA_PROVIDER, has_cuda
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require
from deploykit.util.local_gpu import LocalGpu, local_gpu

GPU_CHECK = "GPU"
"""Name of the check of the GPU."""
_NOT_INSTALLED = "not installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeEnvironment:
    """The GPU and the runtimes that a machine has for engines.

    Attributes:
        runtimes: Version of each compiler's runtime; a runtime that is missing or does not load is absent.
        has_cuda: Whether ONNX Runtime is installed with its CUDA provider.
    """

    gpu: LocalGpu | None
    runtimes: dict[str, str]
    has_cuda: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One requirement of an engine.

    Attributes:
        wanted, found: What the engine needs and what the machine has, in words.
        fix: What to do if the requirement is not met; None if it is.
    """

    name: str
    wanted: str
    found: str
    fix: str | None = None

    @property
    def holds(self) -> bool:
        return self.fix is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """The result of checking an engine against a machine."""

    path: Path
    manifest: EngineManifest
    checks: tuple[Check, ...]

    @property
    def runs(self) -> bool:
        return all(check.holds for check in self.checks)

    def require(self) -> None:
        """Raise an error if the engine cannot run.

        Raises:
            DeployError: A requirement is not met; the message names it and what the machine has.
        """
        for check in self.checks:
            if check.fix is not None:
                raise DeployError(f"{self.path} {_explain(check)}.", code="engine-cannot-run", fix=check.fix)


def _explain(check: Check) -> str:
    if check.name == GPU_CHECK:
        return f"is for {check.wanted}, but this machine has {check.found}"
    needs = f"needs {check.name} {check.wanted}"
    if check.found == _NOT_INSTALLED:
        return f"{needs}, which is not installed"
    return f"{needs}, but this machine has {check.found}"


def detect_environment(compiler: str | None = None) -> RuntimeEnvironment:
    """Return what this machine has.

    Args:
        compiler: Look for the runtime of this compiler only; default all. Looking for a runtime loads it.
    """
    wanted = [name for name in COMPILERS if compiler in (None, name)]
    runtimes = {
        str(name): version for name in wanted if (version := _installed_version(COMPILERS[name].module))
    }
    return RuntimeEnvironment(
        gpu=local_gpu(), runtimes=runtimes, has_cuda="onnxruntime" in runtimes and has_cuda()
    )


def preflight(path: str | Path, environment: RuntimeEnvironment | None = None) -> Preflight:
    """Check whether an engine runs on a machine, by default this one.

    Raises:
        DeployError: The engine or its manifest is missing or was modified.
    """
    path = Path(path)
    manifest = read_engine_manifest(path)
    environment = environment or detect_environment(manifest.target.compiler)
    return Preflight(path=path, manifest=manifest, checks=check_requirements(manifest, environment))


def check_requirements(
    manifest: EngineManifest, environment: RuntimeEnvironment, *, sha256: str | None = None
) -> tuple[Check, ...]:
    """Check each requirement of an engine against a machine.

    Args:
        sha256: Digest of the plan; None if it was verified before.
    """
    checks = (
        _check_plan(manifest, sha256),
        _check_gpu(manifest.target, environment),
        _check_runtime(manifest, environment),
    )
    return tuple(each for each in checks if each is not None)


def _check_plan(manifest: EngineManifest, sha256: str | None) -> Check:
    wanted = manifest.engine_sha256
    found = wanted if sha256 is None else sha256
    fix = None if found == wanted else "copy the engine file again"
    return Check(name="SHA-256", wanted=wanted[:12], found=found[:12] if fix is None else found, fix=fix)


def _check_gpu(target: Target, environment: RuntimeEnvironment) -> Check | None:
    if target.on_cpu:
        return None
    gpu = environment.gpu
    if gpu is None:
        return Check(
            name=GPU_CHECK,
            wanted=target.title,
            found="no NVIDIA GPU",
            fix=(
                "run it on a machine with that GPU, or build one for this CPU: deploykit build-engine --gpu "
                "cpu"
            ),
        )
    fits = target.runs_on(gpu)
    return Check(
        name=GPU_CHECK,
        wanted=target.title,
        found=f"{gpu.name} (SM{gpu.sm})",
        fix=None if fits else f"build one for SM{gpu.sm}: deploykit build-engine --gpu local",
    )


def _check_runtime(manifest: EngineManifest, environment: RuntimeEnvironment) -> Check:
    compiler, built_by = manifest.target.compiler, manifest.compiler_version
    facts, found = COMPILERS[compiler], environment.runtimes.get(compiler)
    wanted = built_by
    if facts.portable_versions:
        wanted = "(any recent version)"
    elif manifest.options.version_compatible:
        wanted = f"{built_by} or later"
    needs_cuda = compiler == "onnxruntime" and not manifest.target.on_cpu
    if needs_cuda:
        wanted += " with the CUDA provider"
    fix = None
    if found is None:
        fix = CUDA_PROVIDER if needs_cuda else facts.install
    elif needs_cuda and not environment.has_cuda:
        found, fix = f"{found} without the CUDA provider", CUDA_PROVIDER
    elif not facts.portable_versions and not _is_version_compatible(found, manifest):
        fix = "rebuild the engine with the installed version, or install the version that built it"
    return Check(name=facts.title, wanted=wanted, found=found or _NOT_INSTALLED, fix=fix)


def _is_version_compatible(version: str, manifest: EngineManifest) -> bool:
    if not manifest.options.version_compatible:
        return version == manifest.compiler_version
    here, built_by = (
        tuple(map(int, re.findall(r"\d+", each))) for each in (version, manifest.compiler_version)
    )
    return here >= built_by


def _installed_version(module: str) -> str | None:
    try:
        version: str = require(module).__version__
    except DeployError:
        return None
    return version
