"""An engine's inputs and outputs in Triton's terms."""

from typing import Any

from deploykit.engine.manifest import EngineManifest
from deploykit.util.array_types import Array
from deploykit.util.errors import DeployError

# Values of DataType in Triton's model_config.proto.
_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "bool": "TYPE_BOOL",
}


def output_arrays(result: Any) -> tuple[Array, ...]:
    """Return the arrays that a call of an engine returned, in the order of its manifest's outputs."""
    return tuple(result.values()) if isinstance(result, dict) else (result,)


def triton_type(dtype: str) -> str:
    """Return Triton's name of a NumPy type: TYPE_FP32 for float32.

    Raises:
        DeployError: Triton has no such type.
    """
    if dtype not in _TYPES:
        raise DeployError(
            f"Triton does not support tensors of type {dtype}.",
            code="triton-type-missing",
            fix=f"export a model whose inputs and outputs are one of {', '.join(_TYPES)}",
        )
    return _TYPES[dtype]


def input_dims(manifest: EngineManifest) -> tuple[int, ...]:
    """Return the input's dimensions without the batch; -1 for a side of any length."""
    side_px = manifest.side_px if manifest.side else None
    return tuple(-1 if size == side_px else size for size in manifest.input.shape)


def is_classifier(manifest: EngineManifest) -> bool:
    """Return whether the engine's only output is one score for each class."""
    return [len(each.shape) for each in manifest.outputs] == [1]
