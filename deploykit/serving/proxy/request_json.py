"""Parse a request's JSON strictly and write it again, so that Triton never sees JSON that kills it.

Triton 2.51 allocates what a shape asks for before it looks for the data, and recurses as deep as arrays nest.
Of a repeated key it takes the first value, where other parsers take the last.

References:
    KServe's Open Inference Protocol, "Inference Request JSON Object", and Triton's binary tensor extension.
"""

import math
from typing import Any

import msgspec

# Parsed, a byte of text may take twenty bytes of memory. These bound all text that is not tensor data.
_MOST_NAMES, _MOST_BYTES = 100_000, 4 * 2**20
_OBJECT = dict[str, msgspec.Raw]
_PARSE_ERRORS = (msgspec.MsgspecError, RecursionError, UnicodeError)


def sanitize_request_json(text: bytes, *, request_bytes: int) -> bytes:
    """Return a JSON object with every key once, whose tensors are no larger than the request.

    Args:
        text: The JSON of a request.
        request_bytes: Length of the request. Every element of a tensor takes at least one byte of it.

    Raises:
        ValueError: It is not a JSON object, nests too deep, holds too much besides tensor data, or a tensor's
            shape is larger than the request. The message is for the client.
    """
    if max(text.count(b":"), text.count(b"{")) > _MOST_NAMES:
        raise ValueError(f"a request may have at most {_MOST_NAMES} names and objects")
    reader = _Reader(request_bytes)
    # Tensor data are megabytes of numbers: they are copied, not parsed.
    parsed = {
        name: reader.tensors(value) if name == "inputs" else reader.read(value, Any, name)
        for name, value in _decoded(text, _OBJECT, "the request").items()
    }
    return msgspec.json.encode(parsed)


class _Reader:
    """Parses the parts of one request, up to a limit on their length in all."""

    def __init__(self, request_bytes: int) -> None:
        self._request_bytes, self._left_bytes = request_bytes, _MOST_BYTES

    def read(self, text: msgspec.Raw, kind: Any, what: str) -> Any:
        self._left_bytes -= len(memoryview(text))
        if self._left_bytes < 0:
            raise ValueError(f"more than {_MOST_BYTES} bytes besides tensor data, with {what}")
        return _decoded(text, kind, what)

    def tensors(self, text: msgspec.Raw) -> Any:
        """Parse the tensors of an `infer` request, and check their shapes; parse anything else as JSON."""
        try:
            tensors = msgspec.json.decode(text, type=list[_OBJECT])
        except _PARSE_ERRORS:  # of `generate`, for example, whose keys are the model's
            return self.read(text, Any, "inputs")
        return [
            {key: value if key == "data" else self._checked(key, value) for key, value in tensor.items()}
            for tensor in tensors
        ]

    def _checked(self, key: str, text: msgspec.Raw) -> Any:
        if key != "shape":
            return self.read(text, Any, key)
        shape = self.read(text, list[int], key)
        if min(shape, default=0) < 0 or math.prod(shape) > self._request_bytes:
            raise ValueError(f"a tensor of shape {shape} has more elements than the request has bytes")
        return shape


def _decoded(text: Any, kind: Any, what: str) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except _PARSE_ERRORS as error:
        raise ValueError(f"failed to parse {what}: {error}") from error
