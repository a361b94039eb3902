"""What a repository's models ask of a server: how large requests may have to be, and which backends."""

import math
from collections.abc import Iterator
from pathlib import Path

from deploykit.serving.repository.config import Config, read_config, run_by, schema
from deploykit.serving.repository.names import CONFIG_FILE
from deploykit.util.errors import DeployError

_AT_LEAST, _AT_MOST = 64 * 2**20, 2**30
_AROUND = 2**20  # headers, and what the protocol says of the tensors
_IMAGE_BYTES = 2**20  # of a photo
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
_FREE_SIDE = 1024
_EVERYWHERE = ("python", "ensemble", "nothing")  # what runs models in every Triton


def models_in(repository: Path) -> tuple[str, ...]:
    return tuple(sorted(each.parent.name for each in repository.glob(f"*/{CONFIG_FILE}")))


def largest_body(repository: Path) -> int:
    """Bytes of the largest batch that some model takes, in binary; between 64 MiB and 1 GiB."""
    largest = max((_body(config) for _, config in _configs_in(repository)), default=0) + _AROUND
    return min(max(largest, _AT_LEAST), _AT_MOST)


def require_room(repository: Path, body_bytes: int) -> None:
    """Fails where a request so large holds not even one image of some model, in binary.

    Raises:
        DeployError: naming the first.
    """
    for name, config in _configs_in(repository):
        least = 0 if _takes_encoded(config) else sum(map(_item, config.input))
        if body_bytes < least:
            raise DeployError(
                f"{body_bytes} bytes hold no image for {name}, which takes {least} bytes each.",
                code="request-limit-too-small",
                fix="give a larger --max-body, or none for what the largest batch takes",
            )


def require_backends(repository: Path) -> None:
    """Fails where nvidia-pytriton's server, which has the Python backend alone, can't run some model.

    Raises:
        DeployError: naming the first.
    """
    for name, config in _configs_in(repository):
        if run_by(config) not in _EVERYWHERE:
            raise DeployError(
                f"{name} is for Triton's {run_by(config)} backend, which nvidia-pytriton does not have.",
                code="triton-backend-missing",
                fix="serve it with a Triton that does, or write it with --backend python",
            )


def _configs_in(repository: Path) -> Iterator[tuple[str, Config]]:
    return ((name, read_config(repository / name / CONFIG_FILE)) for name in models_in(repository))


def _body(config: Config) -> int:
    batch: int = max(1, config.max_batch_size)
    return batch * sum(map(_item, config.input))


def _takes_encoded(config: Config) -> bool:
    return any(_type_of(tensor) == "STRING" for tensor in config.input)


def _type_of(tensor: Config) -> str:
    return str(schema().DataType.Name(tensor.data_type)).removeprefix("TYPE_")


def _item(tensor: Config) -> int:
    name = _type_of(tensor)
    if name == "STRING":
        return _IMAGE_BYTES
    return _ITEM_BYTES.get(name, 1) * math.prod(size if size > 0 else _FREE_SIDE for size in tensor.dims)
