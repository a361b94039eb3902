"""Heavy libraries, imported on first use; where one is missing, the user learns which extra has it."""

import importlib
from types import ModuleType

from deploykit.errors import DeployError

_NAMES = {
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "tensorrt_rtx": "TensorRT-RTX",
    "cuda.core": "cuda-core",
}


def require(module: str, *, extra: str = "cpu") -> ModuleType:
    """The module, imported.

    Raises:
        DeployError: it isn't installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DeployError(
            f"{_NAMES.get(module, module)} is needed for this and can't be imported ({error}).",
            fix=f"pip install 'deploykit[{extra}]'",
        ) from error
