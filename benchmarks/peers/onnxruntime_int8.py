"""ONNX Runtime's quantize_static, as a process of its own.

    PYTHONPATH=benchmarks python -m peers.onnxruntime_int8 MODEL DATA METHOD COUNT OUTPUT [NODES]

METHOD is minmax, entropy, or percentile with what it keeps, as in percentile-99.99. NODES is a file
of node names, one a line; without it, every convolution and the classifier.

Spelled as TensorRT takes it: Q/DQ, symmetric int8, weights per channel, and only inputs quantized
(what follows a convolution is fused into it, and would be rounded twice otherwise).
"""

import sys
from pathlib import Path
from typing import Any

from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from peers.pictures import Array, batches

BATCH = 8
OP_TYPES = ["Conv", "Gemm"]
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships without types
    """Hands out batches one by one."""

    def __init__(self, data: Path, count: int) -> None:
        self._batches = batches(data, count, BATCH)

    def get_next(self) -> dict[str, Array] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"input": batch}


def main() -> None:
    model, data, method, count, output, *nodes = sys.argv[1:]
    name, _, kept = method.partition("-")
    options: dict[str, Any] = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "OpTypesToExcludeOutputQuantization": OP_TYPES,
    }
    if kept:
        options["CalibPercentile"] = float(kept)
    quantize_static(
        model,
        output,
        Reader(Path(data), int(count)),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=OP_TYPES,
        nodes_to_quantize=Path(nodes[0]).read_text(encoding="utf-8").splitlines() if nodes else None,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=METHODS[name],
        extra_options=options,
    )


if __name__ == "__main__":
    main()
