"""Malformed and hostile requests: broken HTTP, meaningless JSON, hand-written gRPC."""

import json

import numpy as np

from deploykit.serving.proxy.grpc_relay import END_HEADERS, HEADERS, encoded_frame, encoded_header

NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    8,
    33,
    2**20,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    1e300,
    0.5,
)
OTHERS = (None, True, "", "x", "input", "logits", "x" * 5000, "\0", "é", [], {}, [[]], [1, "x"], {"a": {}})
TENSOR = ("name", "datatype", "shape", "data", "parameters")
PARAMETERS = (
    "classification",
    "binary_data",
    "binary_data_size",
    "binary_data_output",
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "sequence_id",
    "sequence_start",
    "priority",
    "timeout",
    "own",
)


def infer_body(name: str = "input", kind: str = "FP32", shape: tuple[int, ...] = (1, 3, 8, 8)) -> bytes:
    """Return a request of KServe's v2 protocol with all-zero data."""
    data = [0] * int(np.prod(shape))
    return json.dumps({"inputs": [{"name": name, "datatype": kind, "shape": shape, "data": data}]}).encode()


def nonsense(random: np.random.Generator) -> bytes:
    """Return valid JSON that resembles a request."""

    def pick(*groups: tuple) -> object:
        values = [value for group in groups for value in group]
        return values[random.integers(len(values))]

    def some(most: int) -> range:
        return range(random.integers(most + 1))

    def tensor(name: str) -> dict[str, object]:
        made = {"name": name, "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0.5] * 192}
        if name != "input":
            made = {"name": name}
        for key in dict.fromkeys(str(pick(TENSOR)) for _ in some(2)):
            made[key] = {
                "name": lambda: pick(("input", "image", "logits", "weights"), OTHERS),
                "datatype": lambda: pick(("FP16", "INT8", "INT64", "BYTES", "BOOL", "FP99"), OTHERS),
                "shape": lambda: [pick(NUMBERS) for _ in some(6)] if random.integers(4) else pick(OTHERS),
                "data": lambda: [pick(NUMBERS, OTHERS) for _ in some(200)],
                "parameters": lambda: {pick(PARAMETERS): pick(NUMBERS, OTHERS) for _ in some(3)},
            }[key]()
        return made

    request: dict[str, object] = {
        "inputs": [tensor("input") for _ in range(1 + random.integers(3) // 2)],
        "outputs": [tensor("logits") for _ in some(2)],
    }
    if random.integers(2):
        request["parameters"] = {pick(PARAMETERS): pick(NUMBERS, OTHERS) for _ in some(3)}
    if random.integers(3) == 0:
        request[str(pick(("id", "inputs", "outputs", "parameters")))] = pick(NUMBERS, OTHERS)
    return json.dumps(request).encode()


def fuzzed(model: str, random: np.random.Generator, at: int) -> bytes:
    """Return garbage, a modified or truncated request, or one with an unusual path or header."""
    body = infer_body()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
    whole = head.encode() + body
    kinds = (
        lambda: random.bytes(int(random.integers(1, 2000))),
        lambda: _altered(whole, random),
        lambda: whole[: int(random.integers(1, len(whole)))],
        lambda: _altered(whole[: whole.index(b"\r\n\r\n") + 4], random) + whole[-len(body) :],
        lambda: b"GET /v2/../" + random.bytes(20).hex().encode() + b" HTTP/1.1\r\nHost: here\r\n\r\n",
        lambda: whole.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n", 1),
        lambda: whole.replace(b"\r\n\r\n", b"\r\nInference-Header-Content-Length: -1\r\n\r\n", 1),
        lambda: whole.replace(body, b"[" * len(body)),
    )
    return kinds[at % len(kinds)]()


def _altered(text: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(text)
    for place in random.integers(0, len(changed), 5):
        changed[place] = random.integers(256)
    return bytes(changed)


def begun_call(name: str, stream: int) -> bytes:
    """Return the headers of one of Triton's gRPC calls."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/inference.GRPCInferenceService/{name}",
        ":authority": "here",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    block = b"".join(map(encoded_header, fields, fields.values()))
    return encoded_frame(HEADERS, stream, block, flags=END_HEADERS)
