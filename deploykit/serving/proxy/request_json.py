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
    reader = _Reader(request_bytes)
    # Data are arrays of numbers, by the megabyte: skipped, not read.
    found = {
        name: reader.tensors(value) if name == "inputs" else reader.read(value, Any, name)
        for name, value in _decoded(text, _OBJECT, "the request").items()
    }
    return msgspec.json.encode(found)


class _Reader:
    """Of one request, of which it reads so much and no more."""

    def __init__(self, request_bytes: int) -> None:
        self._request_bytes, self._left_bytes = request_bytes, _MOST_BYTES

    def read(self, text: msgspec.Raw, kind: Any, what: str) -> Any:
        self._left_bytes -= len(memoryview(text))
        if self._left_bytes < 0:
            raise ValueError(f"more than {_MOST_BYTES} bytes of the request are no data, with {what}")
        return _decoded(text, kind, what)

    def tensors(self, text: msgspec.Raw) -> Any:
        """Each with its shape looked at, where they are tensors, as in what `infer` takes."""
        try:
            tensors = msgspec.json.decode(text, type=list[_OBJECT])
        except _UNREADABLE:  # of `generate`, say, whose keys are the model's own
            return self.read(text, Any, "inputs")
        return [
            {key: value if key == "data" else self._sound(key, value) for key, value in tensor.items()}
            for tensor in tensors
        ]

    def _sound(self, key: str, text: msgspec.Raw) -> Any:
        if key != "shape":
            return self.read(text, Any, key)
        shape = self.read(text, list[int], key)
        if min(shape, default=0) < 0 or math.prod(shape) > self._request_bytes:
            raise ValueError(f"a tensor of shape {shape} has more elements than the request has bytes")
        return shape


def _decoded(text: Any, kind: Any, what: str) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except _UNREADABLE as error:
        raise ValueError(f"failed to parse {what}: {error}") from error
