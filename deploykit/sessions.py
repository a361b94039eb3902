"""ONNX Runtime sessions, opened the one way this package needs them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.errors import DeployError
from deploykit.extras import require


def cpu_session(model: bytes | Path, *, fuse_int8: bool = True, threads: int | None = None) -> Any:
    """An onnxruntime.InferenceSession on the CPU.

    Args:
        model: a serialized model, or its file.
        fuse_int8: False keeps Q/DQ pairs as they stand and computes between them in float, which is
            the arithmetic TensorRT does; True uses ONNX Runtime's own INT8 kernels.
        threads: intra-op threads; default one a core.

    Raises:
        DeployError: ONNX Runtime is missing, or refuses the model.
    """
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; the rest is noise on the user's terminal
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    if not fuse_int8:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return ort.InferenceSession(
            str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no public base class
        name = model.name if isinstance(model, Path) else "the model"
        raise DeployError(
            f"ONNX Runtime refuses {name}: {str(error).splitlines()[0]}.", fix="export the model again"
        ) from error


def run(
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
            fix="export it again with a dynamic batch",
        ) from error
    return made
