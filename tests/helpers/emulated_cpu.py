"""Run models on an emulated CPU without VNNI."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploykit.onnx_tools.model_io import to_bytes

RUN_FOLDER = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level, options.intra_op_num_threads = 4, 1
for path in Path(sys.argv[1]).glob("*.onnx"):
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: np.load(path.with_suffix(".x.npy"))})
    np.save(path.with_suffix(".y.npy"), y)
"""


def run_without_vnni(
    cases: dict[str, tuple[onnx.ModelProto, np.ndarray]], folder: Path
) -> dict[str, np.ndarray]:
    """Return the outputs of models with fused INT8 on an emulated Haswell, which has AVX2 but no VNNI."""
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if emulator is None:
        pytest.skip("needs qemu-x86_64 to emulate a CPU without VNNI: apt-get install qemu-user")
    for name, (model, x) in cases.items():
        (folder / f"{name}.onnx").write_bytes(to_bytes(model))
        np.save(folder / f"{name}.x.npy", x)
    command = [emulator, "-cpu", "Haswell", sys.executable, "-c", RUN_FOLDER, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return {name: np.load(folder / f"{name}.y.npy") for name in cases}
