"""Whether this machine can run an engine, before anything of it is deserialized, and if not, what to do."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeEnvironment:
    """What engines could run on here.

    Attributes:
        runtimes: version of each compiler's runtime; one that is not there, or does not load, is left out.
        has_cuda: ONNX Runtime is there with its CUDA provider.
    """

    gpu: LocalGpu | None
    runtimes: dict[str, str]
    has_cuda: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing an engine needs.

    Attributes:
        wanted, found: in words.
        fix: what to do where it does not hold; None where it does.
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
    """Whether an engine runs on a machine."""

    path: Path
    manifest: EngineManifest
    checks: tuple[Check, ...]

    @property
    def runs(self) -> bool:
        return all(check.holds for check in self.checks)

    def require(self) -> None:
        """Fails where the engine does not run.

        Raises:
            DeployError: it does not; says what it wants, and what is here.
        """
        for check in self.checks:
            if check.fix is not None:
                needs = (
                    f"is for {check.wanted}"
                    if check.name == GPU_CHECK
                    else f"needs {check.name} {check.wanted}"
                )
                raise DeployError(
                    f"{self.path} {needs}; this machine has {check.found}.",
                    code="engine-cannot-run",
                    fix=check.fix,
                )


def detect_environment(compiler: str | None = None) -> RuntimeEnvironment:
    """What there is here.

    Args:
        compiler: whose runtime to look for; default all. Looking loads it.
    """
    wanted = [name for name in COMPILERS if compiler in (None, name)]
    runtimes = {str(name): version for name in wanted if (version := _version(COMPILERS[name].module))}
    return RuntimeEnvironment(
        gpu=local_gpu(), runtimes=runtimes, has_cuda="onnxruntime" in runtimes and has_cuda()
    )


def preflight(path: str | Path, machine: RuntimeEnvironment | None = None) -> Preflight:
    """Whether an engine runs on a machine, by default on this one.

    Raises:
        DeployError: the engine or its manifest is missing, or was altered.
    """
    path = Path(path)
    manifest = read_engine_manifest(path)
    machine = machine or detect_environment(manifest.target.compiler)
    return Preflight(path=path, manifest=manifest, checks=check_requirements(manifest, machine))


def check_requirements(
    manifest: EngineManifest, machine: RuntimeEnvironment, *, sha256: str | None = None
) -> tuple[Check, ...]:
    """What an engine needs, and whether a machine has it.

    Args:
        sha256: of the plan; None where that has been compared.
    """
    checks = (_plan(manifest, sha256), _gpu(manifest.target, machine), _runtime(manifest, machine))
    return tuple(each for each in checks if each is not None)


def _plan(manifest: EngineManifest, sha256: str | None) -> Check:
    wanted = manifest.engine_sha256
    found = wanted if sha256 is None else sha256
    fix = None if found == wanted else "copy the file again"
    return Check(name="SHA-256", wanted=wanted[:12], found=found[:12] if fix is None else found, fix=fix)


def _gpu(target: Target, machine: RuntimeEnvironment) -> Check | None:
    if target.on_cpu:
        return None
    gpu = machine.gpu
    if gpu is None:
        return Check(
            name=GPU_CHECK,
            wanted=target.title,
            found="no NVIDIA GPU",
            fix="run it where that GPU is; deploykit build-engine --gpu cpu makes one for here",
        )
    fits = target.runs_on(gpu)
    return Check(
        name=GPU_CHECK,
        wanted=target.title,
        found=f"{gpu.name} (SM{gpu.sm})",
        fix=None
        if fits
        else f"deploykit build-engine --gpu local makes one for SM{gpu.sm}, where TensorRT-RTX can",
    )


def _runtime(manifest: EngineManifest, machine: RuntimeEnvironment) -> Check:
    compiler, built_by = manifest.target.compiler, manifest.compiler_version
    facts, found = COMPILERS[compiler], machine.runtimes.get(compiler)
    wanted = built_by
    if facts.portable_versions:
        wanted = "of any recent version"
    elif manifest.options.version_compatible:
        wanted = f"{built_by} or later"
    needs_cuda = compiler == "onnxruntime" and not manifest.target.on_cpu
    if needs_cuda:
        wanted += ", with its CUDA provider"
    fix = None
    if found is None:
        fix = CUDA_PROVIDER if needs_cuda else facts.install
    elif needs_cuda and not machine.has_cuda:
        found, fix = f"{found} for CPUs", CUDA_PROVIDER
    elif not facts.portable_versions and not _runs_with(found, manifest):
        fix = "build the engine again with the version here, or install the version that built it"
    return Check(name=facts.title, wanted=wanted, found=found or "none", fix=fix)


def _runs_with(version: str, manifest: EngineManifest) -> bool:
    if not manifest.options.version_compatible:
        return version == manifest.compiler_version
    here, built_by = (
        tuple(map(int, re.findall(r"\d+", each))) for each in (version, manifest.compiler_version)
    )
    return here >= built_by


def _version(module: str) -> str | None:
    try:
        version: str = require(module).__version__
    except DeployError:
        return None
    return version
