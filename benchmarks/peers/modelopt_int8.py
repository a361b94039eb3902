"""NVIDIA ModelOpt's ONNX quantizer, as a process of its own, under the interpreter that has it.

    PYTHONPATH=benchmarks .cache/peers/bin/python -m peers.modelopt_int8 MODEL DATA METHOD COUNT OUTPUT

METHOD is max or entropy. All else is ModelOpt's default, which is what its users get: it chooses
where Q/DQ go, runs one image at a time, and writes an FP16 graph with FP32 inputs and outputs.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from modelopt.onnx.quantization import quantize  # type: ignore[import-not-found]  # not of this interpreter

from peers.pictures import batches


def main() -> None:
    model, data, method, count, output = sys.argv[1:]
    images = np.concatenate(list(batches(Path(data), int(count), int(count))))
    with tempfile.TemporaryDirectory() as scratch:  # it writes beside the model
        copy = str(shutil.copy(model, scratch))
        quantize(
            copy,
            calibration_data=images,
            calibration_method=method,
            calibration_eps=["cpu"],  # without a GPU its default ends there too, after warnings
            output_path=output,
            log_level="WARNING",
        )


if __name__ == "__main__":
    main()
