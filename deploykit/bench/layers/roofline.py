"""The roofline: the shortest time of a layer given the peak compute and the bandwidth; measured for this CPU.

References:
    Williams, Waterman and Patterson 2009, "Roofline", doi:10.1145/1498765.1498785.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.util.types import Precision

_SIDE = 768  # of the matrices that are multiplied
_SIZES = tuple(2**power for power in range(16, 29, 2))  # copy sizes, 64 KiB to 256 MiB
_SECONDS = 0.1  # duration of each measurement
_OPSET = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The peak compute and the bandwidth of a machine.

    Attributes:
        macs_per_s: Multiply-accumulates per second, by precision.
        bytes_per_s: Pairs of a size, bytes, and the bandwidth at that size, bytes read and written per
            second.
    """

    macs_per_s: dict[Precision, float]
    bytes_per_s: tuple[tuple[int, float], ...]

    def bound_ms(self, *, macs: int, size_bytes: int | None, precision: Precision | None) -> float | None:
        """Return the shortest time for this many multiply-accumulates and bytes, ms.

        None if the bytes, or the peak at that precision, are unknown.
        """
        peak = self.macs_per_s.get(precision) if precision is not None else None
        if size_bytes is None or (macs and peak is None):
            return None
        sizes, rates = zip(*self.bytes_per_s, strict=True)
        moving = size_bytes / np.interp(np.log(max(size_bytes, 1)), np.log(sizes), rates)
        return 1000 * float(max(moving, macs / peak if peak is not None else 0.0))


@cache
def measure_cpu_roofline(threads: int) -> Roofline:
    """Measure the roofline of this CPU with this many threads; takes about two seconds, then cached."""
    return Roofline(
        macs_per_s={"fp32": _macs_per_s(_matmul(), threads), "int8": _macs_per_s(_matmul_integer(), threads)},
        bytes_per_s=tuple((size, _bytes_per_s(size, threads)) for size in _SIZES),
    )


def _macs_per_s(model: bytes, threads: int) -> float:
    session = cpu_session(model, threads=threads)
    taken = session.get_inputs()[0]
    dtype = np.uint8 if "uint8" in taken.type else np.float32
    matrix = np.ones((_SIDE, _SIDE), dtype)
    return _SIDE**3 / _least_s(lambda: session.run(None, {taken.name: matrix}))


def _bytes_per_s(size: int, threads: int) -> float:
    """Return the bandwidth of copies by all threads at once: half of the size is read, half written."""
    part = size // 2 // threads
    pairs = [(np.ones(part, np.uint8), np.zeros(part, np.uint8)) for _ in range(threads)]
    repeats = max(1, 2**22 // size)

    def copy(pair: tuple[Any, Any]) -> None:
        for _ in range(repeats):
            np.copyto(pair[1], pair[0])

    with ThreadPoolExecutor(threads) as pool:
        return 2 * part * threads * repeats / _least_s(lambda: list(pool.map(copy, pairs)))


def _least_s(call: Callable[[], object]) -> float:
    """Return the shortest time of a call: disturbances only ever add time."""
    call()
    least, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - start)
    return least


def _matmul() -> bytes:
    from onnx import TensorProto, helper

    weights = helper.make_tensor("w", TensorProto.FLOAT, (_SIDE, _SIDE), np.ones(_SIDE**2, np.float32))
    return _model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], weights, TensorProto.FLOAT, TensorProto.FLOAT
    )


def _matmul_integer() -> bytes:
    from onnx import TensorProto, helper

    weights = helper.make_tensor("w", TensorProto.INT8, (_SIDE, _SIDE), np.ones(_SIDE**2, np.int8))
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    return _model(nodes, weights, TensorProto.UINT8, TensorProto.INT32)


def _model(nodes: list[Any], weights: Any, takes: int, gives: int) -> bytes:
    from onnx import helper

    shape = (_SIDE, _SIDE)
    graph = helper.make_graph(
        nodes,
        "peak",
        [helper.make_tensor_value_info("x", takes, shape)],
        [helper.make_tensor_value_info("y", gives, shape)],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
