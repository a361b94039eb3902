"""What an engine takes and gives, in Triton's words."""

from typing import Any

import numpy.typing as npt

from deploykit.engine.manifest import EngineManifest
from deploykit.util.errors import DeployError

# Of model_config.proto's DataType.
_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "bool": "TYPE_BOOL",
}


def answers_of(result: Any) -> tuple[npt.NDArray[Any], ...]:
    """What a call of the engine gave, in the order of its manifest's outputs."""
    return tuple(result.values()) if isinstance(result, dict) else (result,)


def triton_type(dtype: str) -> str:
    """`TYPE_FP32` for `float32`.

    Raises:
        DeployError: Triton has no such type.
    """
    if dtype not in _TYPES:
        raise DeployError(
            f"Triton has no type for {dtype}.",
            code="triton-type-missing",
            fix=f"give an engine of {', '.join(_TYPES)}",
        )
    return _TYPES[dtype]


def input_dims(manifest: EngineManifest) -> tuple[int, ...]:
    """Without the batch; -1 for a side that is free."""
    side_px = manifest.side_px if manifest.side else None
    return tuple(-1 if size == side_px else size for size in manifest.input.shape)


def is_classifier(manifest: EngineManifest) -> bool:
    """Whether its one output is a score a class."""
    return [len(each.shape) for each in manifest.outputs] == [1]
