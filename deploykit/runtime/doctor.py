"""Report what is installed, what this machine can build for and run, and what to install for the rest."""

import platform
from dataclasses import dataclass

from deploykit.engine.targets import AHEAD_OF_TIME_SMS, PORTABLE_SMS
from deploykit.onnx_tools.ort_session import has_cuda
from deploykit.util.errors import DeployError
from deploykit.util.install_hint import install_hint
from deploykit.util.lazy_import import require
from deploykit.util.local_gpu import LocalGpu, local_gpu

# Distribution, module, purpose, and the extra that installs it.
_COMPONENTS = (
    ("torch", "torch", "checking exports against PyTorch", "cpu"),
    ("onnxruntime", "onnxruntime", "calibration, accuracy, engines for the CPU", "cpu"),
    ("safetensors", "safetensors", "reading .safetensors weights", "cpu"),
    ("tensorrt-rtx-cu13", "tensorrt_rtx", "compiling engines, with or without a GPU", "cpu"),
    ("cuda-core", "cuda.core", "running engines on a GPU", "gpu"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A library: its version, or None if it cannot be imported, and the command that installs it."""

    name: str
    version: str | None
    purpose: str
    install: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What this machine can do.

    Attributes:
        builds_for: The machines it can build engines for.
        runs: The engines it can run.
        advice: What to do for the rest, one sentence each.
    """

    python: str
    platform: str
    gpu: LocalGpu | None
    components: tuple[Component, ...]
    builds_for: tuple[str, ...]
    runs: tuple[str, ...]
    advice: tuple[str, ...]


def diagnose() -> Diagnosis:
    """Examine this machine; this imports every library that it reports as installed."""
    components = tuple(_component(*row) for row in _COMPONENTS)
    installed = {component.name for component in components if component.version is not None}
    gpu = local_gpu()
    builds, runs = [], []
    if "onnxruntime" in installed:
        builds.append("the CPU (ONNX Runtime)")
        runs.append("CPU engines")
        if gpu is not None and has_cuda():
            builds.append(f"{gpu.name} (ONNX Runtime, FP16)")
            runs.append("ONNX Runtime's engines for GPUs")
    if "tensorrt-rtx-cu13" in installed:
        builds.append(
            "SM" + ", ".join(str(sm) for sm in AHEAD_OF_TIME_SMS) + " (TensorRT-RTX, FP16 and INT8)"
        )
        if gpu is not None and "cuda-core" in installed:
            runs.append(f"engines for SM{gpu.sm}" + (" and portable ones" if gpu.sm in PORTABLE_SMS else ""))
    return Diagnosis(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        gpu=gpu,
        components=components,
        builds_for=tuple(builds),
        runs=tuple(runs),
        advice=tuple(_advice(components, gpu)),
    )


def _component(distribution: str, module: str, purpose: str, extra: str) -> Component:
    try:
        version: str | None = require(module).__version__
    except DeployError:
        version = None
    return Component(name=distribution, version=version, purpose=purpose, install=install_hint(extra))


def _advice(components: tuple[Component, ...], gpu: LocalGpu | None) -> list[str]:
    advice = [
        f"{component.name} is missing; it is for {component.purpose}. Install it: {component.install}"
        for component in components
        if component.version is None
    ]
    if gpu is None:
        advice.append(
            "No NVIDIA GPU or driver was found: engines for GPUs can be built here and run elsewhere."
        )
    advice += [
        "For data-center GPUs such as T4 and A100, NVIDIA documents TensorRT (--compiler tensorrt), whose "
        "libraries are on NVIDIA's own package index. TensorRT-RTX is documented for RTX GPUs.",
        "INT8 convolutions are not in TensorRT-RTX's support matrix, although its builder accepts them. "
        "For SM75, deploykit writes the pointwise ones as INT8 matrix products instead.",
        "TensorRT-RTX cannot target SM70, SM90 and SM100: build on that GPU with --compiler tensorrt.",
    ]
    return advice
