"""What a repository's models require of a server: the size of requests, and the backends."""

import math
from collections.abc import Iterator
from pathlib import Path

from deploykit.serving.repository.config import Config, backend_name, config_schema, read_config
from deploykit.serving.repository.names import CONFIG_FILE
from deploykit.util.errors import DeployError

_MIN_LIMIT, _MAX_LIMIT = 64 * 2**20, 2**30
_OVERHEAD_BYTES = 2**20  # headers, and the protocol's description of the tensors
_PHOTO_BYTES = 2**20
_ITEM_BYTES = {
    "BOOL": 1,
    "UINT8": 1,
    "INT8": 1,
    "UINT16": 2,
    "INT16": 2,
    "FP16": 2,
    "BF16": 2,
    "UINT32": 4,
    "INT32": 4,
    "FP32": 4,
    "UINT64": 8,
    "INT64": 8,
    "FP64": 8,
}
_DYNAMIC_SIDE = 1024
_ALWAYS_AVAILABLE = ("python", "ensemble", "nothing")  # in every Triton


def model_names(repository: Path) -> tuple[str, ...]:
    """Return the names of a repository's models, sorted."""
    return tuple(sorted(each.parent.name for each in repository.glob(f"*/{CONFIG_FILE}")))


def default_body_limit(repository: Path) -> int:
    """Return the bytes of the largest binary batch of any model, between 64 MiB and 1 GiB."""
    largest = max((_batch_bytes(config) for _, config in _configs(repository)), default=0) + _OVERHEAD_BYTES
    return min(max(largest, _MIN_LIMIT), _MAX_LIMIT)


def require_body_limit(repository: Path, body_bytes: int) -> None:
    """Check that requests may be as large as one binary image of every model.

    Raises:
        DeployError: Some model's image is larger; the message names the first.
    """
    for name, config in _configs(repository):
        needed = 0 if _takes_encoded(config) else sum(map(_item_bytes, config.input))
        if body_bytes < needed:
            raise DeployError(
                f"--max-body of {body_bytes} bytes is too small for {name}: its images have {needed} bytes.",
                code="request-limit-too-small",
                fix="give a larger --max-body, or leave it out for the size of the largest batch",
            )


def require_backends(repository: Path) -> None:
    """Check that nvidia-pytriton's server, which only has the Python backend, can run every model.

    Raises:
        DeployError: A model needs another backend; the message names the first.
    """
    for name, config in _configs(repository):
        if (backend := backend_name(config)) not in _ALWAYS_AVAILABLE:
            raise DeployError(
                f"{name} needs Triton's {backend} backend, which nvidia-pytriton does not include.",
                code="triton-backend-missing",
                fix="serve it with a full Triton installation, or write it with --backend python",
            )


def _configs(repository: Path) -> Iterator[tuple[str, Config]]:
    return ((name, read_config(repository / name / CONFIG_FILE)) for name in model_names(repository))


def _batch_bytes(config: Config) -> int:
    batch: int = max(1, config.max_batch_size)
    return batch * sum(map(_item_bytes, config.input))


def _takes_encoded(config: Config) -> bool:
    return any(_type_name(tensor) == "STRING" for tensor in config.input)


def _type_name(tensor: Config) -> str:
    return str(config_schema().DataType.Name(tensor.data_type)).removeprefix("TYPE_")


def _item_bytes(tensor: Config) -> int:
    """Return the bytes of one image in a tensor."""
    name = _type_name(tensor)
    if name == "STRING":
        return _PHOTO_BYTES
    return _ITEM_BYTES.get(name, 1) * math.prod(size if size > 0 else _DYNAMIC_SIDE for size in tensor.dims)
