"""The JSON of a request: read strictly, and written anew, so that Triton meets nothing that ends it.

Triton 2.51 makes room for what a shape says before it looks for the data, recurses as deep as arrays nest,
and of a key that is there twice takes the first, where other readers take the last.

References:
    KServe's Open Inference Protocol, "Inference Request JSON Object", and Triton's binary tensor extension.
"""

import math
from typing import Any

import msgspec

# Read, a byte of text may take twenty of memory: what is no data is bounded by these.
_MOST_NAMES, _MOST_BYTES = 100_000, 4 * 2**20
_OBJECT = dict[str, msgspec.Raw]
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)


def rewritten(text: bytes, *, request_bytes: int) -> bytes:
    """A JSON object with every key once, whose tensors can be no larger than the request.

    Args:
        request_bytes: length of the request, in which every element of a tensor has at least one byte.

    Raises:
        ValueError: it is none, nests too deep, says too much that is no data, or a tensor says that it is
            larger; in words for the client.
    """
    if max(text.count(b":"), text.count(b"{")) > _MOST_NAMES:
        raise ValueError(f"a request has at most {_MOST_NAMES} names and objects")
    found = _read(text, _OBJECT, "the request")
    for name, value in found.items():
        # Data are arrays of numbers, by the megabyte: skipped, not read.
        found[name] = _tensors(value, request_bytes) if name == "inputs" else _read(value, Any, name)
    return msgspec.json.encode(found)


def _tensors(text: msgspec.Raw, request_bytes: int) -> Any:
    """Each with its shape looked at, where they are tensors, as in what `infer` takes."""
    try:
        tensors = msgspec.json.decode(text, type=list[_OBJECT])
    except _UNREADABLE:  # of `generate`, say, whose keys are the model's own
        return _read(text, Any, "inputs")
    return [
        {key: value if key == "data" else _sound(key, value, request_bytes) for key, value in tensor.items()}
        for tensor in tensors
    ]


def _sound(key: str, text: msgspec.Raw, request_bytes: int) -> Any:
    if key != "shape":
        return _read(text, Any, key)
    shape = _read(text, list[int], key)
    if min(shape, default=0) < 0 or math.prod(shape) > request_bytes:
        raise ValueError(f"a tensor of shape {shape} has more elements than the request has bytes")
    return shape


def _read(text: Any, kind: Any, what: str) -> Any:
    if kind is not _OBJECT and len(memoryview(text)) > _MOST_BYTES:
        raise ValueError(f"{what} takes more than the {_MOST_BYTES} bytes that are read of what is no data")
    try:
        return msgspec.json.decode(text, type=kind)
    except _UNREADABLE as error:
        raise ValueError(f"failed to parse {what}: {error}") from error
