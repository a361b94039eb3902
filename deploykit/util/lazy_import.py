"""Import heavy libraries on first use, and name the extra that provides a missing one."""

import importlib
import os
from types import ModuleType

from deploykit.util.errors import DeployError
from deploykit.util.install_hint import install_hint

# Without this, ONNX Runtime writes a device id and a database to the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_TITLES = {
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT-RTX",
    "cuda.core": "cuda-core",
    "safetensors.torch": "safetensors",
}


def require(module: str, *, extra: str = "cpu", install: str | None = None) -> ModuleType:
    """Import a module and return it.

    Args:
        module: Full name, for example `cuda.core`.
        extra: The extra of deploykit that provides it.
        install: The fix to suggest instead of installing the extra.

    Raises:
        DeployError: The module can't be imported.
        KeyboardInterrupt: The import was interrupted. Extension modules report that as an ImportError.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: one of its shared libraries is missing
        if _is_caused_by_interrupt(error):
            raise KeyboardInterrupt from error
        raise DeployError(
            f"{_TITLES.get(module, module)} is required and can't be imported ({error}).",
            code="dependency-missing",
            fix=install or install_hint(extra),
        ) from error


def _is_caused_by_interrupt(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
