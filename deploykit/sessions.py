"""ONNX Runtime sessions, opened the one way this package needs them."""

import os
from pathlib import Path
from typing import Any

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
