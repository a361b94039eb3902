"""The yardstick: runs a model over images and keeps nothing.

    PYTHONPATH=benchmarks python -m peers.forward MODEL DATA COUNT

No calibration can be faster than this, since each runs the model once over its images.
"""

import sys
from pathlib import Path

import onnxruntime

from peers.pictures import batches

BATCH = 8  # deploykit's own


def main() -> None:
    model, data, count = sys.argv[1:]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (image_input,) = session.get_inputs()
    for batch in batches(Path(data), int(count), BATCH):
        session.run(None, {image_input.name: batch})


if __name__ == "__main__":
    main()
