"""ONNX Runtime sessions, opened the ways this package needs them."""

import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require
from deploykit.util.local_gpu import ORDINAL

_CUDA = "CUDAExecutionProvider"
_LIBRARIES = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
CUDA_PROVIDER = f"pip uninstall onnxruntime, then {_LIBRARIES}"
"""How to get it where there is the ONNX Runtime for CPUs: the two overwrite each other's files."""


def cpu_session(
    model: bytes | Path,
    *,
    fuse_int8: bool = True,
    threads: int | None = None,
    optimized: Path | None = None,
    profile: Path | None = None,
) -> Any:
    """An onnxruntime.InferenceSession on the CPU.

    Args:
        model: a serialized model, or its file.
        fuse_int8: False keeps Q/DQ pairs as they stand and computes between them in float, which is
            the arithmetic TensorRT does; True uses ONNX Runtime's own INT8 kernels.
        threads: intra-op threads; default one a core.
        optimized: a file to write the graph to that ONNX Runtime makes of the model.
        profile: what the names of files begin with to which end_profiling writes each kernel's times.

    Raises:
        DeployError: ONNX Runtime is missing, or refuses the model.
    """
    options = _options(optimized)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    if not fuse_int8:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return _open(model, options, providers=["CPUExecutionProvider"])


def cuda_session(model: bytes | Path, *, optimized: Path | None = None) -> Any:
    """An onnxruntime.InferenceSession on the first GPU; what has no kernels there runs on the CPU.

    Args:
        model, optimized: see cpu_session.

    Raises:
        DeployError: ONNX Runtime has no CUDA provider, it does not start, or the model is refused.
    """
    ort = require("onnxruntime", extra="gpu")
    if not has_cuda():
        raise DeployError(
            f"The ONNX Runtime here, {ort.__version__}, runs on CPUs alone.",
            code="onnxruntime-cuda-missing",
            fix=CUDA_PROVIDER,
        )
    ort.set_default_logger_severity(4)
    with redirect_stdout(None):  # it prints what it does not find
        ort.preload_dlls()
    providers = [(_CUDA, {"device_id": ORDINAL}), "CPUExecutionProvider"]
    session = _open(model, _options(optimized), providers=providers)
    if _CUDA not in session.get_providers():  # all runs on the CPU then, and nothing says so
        raise DeployError(
            "ONNX Runtime's CUDA provider does not start here.",
            code="onnxruntime-cuda-missing",
            fix=f"check the driver with nvidia-smi, and {_LIBRARIES}",
        )
    session.disable_fallback()
    return session


def has_cuda() -> bool:
    """Whether the ONNX Runtime that is installed has been built for NVIDIA GPUs."""
    return _CUDA in require("onnxruntime").get_available_providers()


def _options(optimized: Path | None) -> Any:
    options = require("onnxruntime").SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; the rest is noise on the user's terminal
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return options


def _open(model: bytes | Path, options: Any, *, providers: list[Any]) -> Any:
    given = str(model) if isinstance(model, Path) else model
    try:
        return require("onnxruntime").InferenceSession(given, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no public base class
        name = model.name if isinstance(model, Path) else "the model"
        raise DeployError(
            f"ONNX Runtime refuses {name}: {str(error).splitlines()[0]}.",
            code="onnxruntime-load-failed",
            fix="export the model again",
        ) from error


def run_session(
    session: Any,
    images: npt.NDArray[np.float32],
    outputs: Sequence[str] | None = None,
    *,
    model: str | Path = "the model",
) -> list[npt.NDArray[np.float32]]:
    """What a session with one input makes of a batch, (n, 3, side, side); by default all its outputs.

    Args:
        model: what to call it where that fails.

    Raises:
        DeployError: ONNX Runtime can't compute it.
    """
    (taken,) = session.get_inputs()
    try:
        made: list[npt.NDArray[np.float32]] = session.run(outputs, {taken.name: images})
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise DeployError(
            f"ONNX Runtime can't run {model} on {len(images)} images: {str(error).splitlines()[0]}",
            code="onnxruntime-run-failed",
            fix="export it again with a dynamic batch",
        ) from error
    return made
