"""Heavy libraries, imported on first use; where one is missing, the user learns which extra has it."""

import importlib
import os
from types import ModuleType

from deploykit.util.errors import DeployError
from deploykit.util.install_hint import install_hint

# ONNX Runtime would write a device id and a database under the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_NAMES = {
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT-RTX",
    "cuda.core": "cuda-core",
    "safetensors.torch": "safetensors",
}


def require(module: str, *, extra: str = "cpu", install: str | None = None) -> ModuleType:
    """The module, imported.

    Args:
        extra: what brings it.
        install: what else to do where it is missing, instead of installing the extra.

    Raises:
        DeployError: it isn't installed.
        KeyboardInterrupt: the import was stopped; extension modules call that an ImportError.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library it needs is missing
        if _is_from_an_interrupt(error):
            raise KeyboardInterrupt from error
        raise DeployError(
            f"{_NAMES.get(module, module)} is needed for this and can't be imported ({error}).",
            code="dependency-missing",
            fix=install or install_hint(extra),
        ) from error


def _is_from_an_interrupt(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
