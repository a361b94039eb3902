"""INT8 on a CPU: accuracy as it runs, with VNNI and without, and speed beside FP32.

    python benchmarks/cpu_int8.py [FOLDER]

FOLDER holds efficientnet_b0_cifar10_64px.safetensors, cifar10_calib.npz and cifar10_val.npz (arrays
`images`, uint8 NHWC, and `labels`); without it, speed alone. Where qemu-x86_64 is installed, 32 of
the images also run on a Haswell it emulates, which has AVX2 and no VNNI.

Speed is one thread's processor time for one image. The models take turns, and each turn gives one
ratio to FP32: other work on the machine slows both, and the median of the ratios withstands it.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from deploykit.data.images.open import open_images
from deploykit.engine.lowering.cpu_int8 import lower_for_cpu
from deploykit.engine.onnxruntime_compiler import audit_kernels
from deploykit.networks.export import export_onnx
from deploykit.networks.model_info import read_model_info
from deploykit.onnx_tools.model_io import INPUT_NAME, read_model
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.quantize.calibrate import CalibrationSettings, calibrate
from deploykit.quantize.calibration.methods import named_method
from deploykit.quantize.placement import place_int8
from deploykit.quantize.qdq import insert_qdq
from deploykit.stats.accuracy_metrics import agreement, sqnr_db, top1

if TYPE_CHECKING:
    from onnx import ModelProto

Array = npt.NDArray[np.float32]

TURNS = 60
EMULATED_IMAGES = 32
RUN = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level, options.intra_op_num_threads = 4, 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
numpy.save(sys.argv[3], session.run(None, {session.get_inputs()[0].name: numpy.load(sys.argv[2])})[0])
"""


def main() -> None:
    if len(sys.argv) > 2:
        raise SystemExit("usage: cpu_int8.py [FOLDER]")
    with tempfile.TemporaryDirectory() as scratch:
        if len(sys.argv) == 2:
            _accuracy(Path(sys.argv[1]), Path(scratch))
        print(f"\n{'one image, one thread':24} {'FP32':>10} {'plain Q/DQ':>18} {'artifact':>18}")
        for phi, side_px in ((0, 64), (0, 224), (3, 300)):
            _speed(phi, side_px, Path(scratch, f"{phi}_{side_px}"))


def _accuracy(folder: Path, scratch: Path) -> None:
    weights = folder / "efficientnet_b0_cifar10_64px.safetensors"
    path = export_onnx(0, weights=weights, side_px=64, output=scratch / "trained.onnx").path
    archive = np.load(folder / "cifar10_val.npz")
    images = read_model_info(read_model(path)).preprocessing.normalize(archive["images"])
    reference = _logits(path.read_bytes(), images, fuse_int8=True)
    plain = _quantized(path, str(folder / "cifar10_calib.npz"), limit=512)
    print(f"{'':36} integers     top-1  agreement     SQNR  in float  no VNNI")
    print(f"{'FP32':36} {'':8} {100 * top1(reference, archive['labels']):6.2f} %")
    for name, model in (
        ("plain Q/DQ", plain),
        ("artifact, if its weights were plain", _with_plain_weights(plain)),
        ("artifact", lower_for_cpu(plain)),
    ):
        data = model.SerializeToString()
        fused, unfused = (_logits(data, images, fuse_int8=each) for each in (True, False))
        emulated = _without_vnni(data, images[:EMULATED_IMAGES], scratch)
        integers = audit_kernels(model).product_count("int8")
        print(
            f"{name:36} {integers:8} {100 * top1(fused, archive['labels']):6.2f} % "
            f"{100 * agreement(fused, reference):8.2f} % {sqnr_db(fused, reference):5.1f} dB "
            f"{sqnr_db(unfused, reference):6.1f} dB "
            + ("" if emulated is None else f"{sqnr_db(emulated, reference[:EMULATED_IMAGES]):5.1f} dB")
        )


def _with_plain_weights(plain: "ModelProto") -> "ModelProto":
    """The artifact as it would be if nothing kept its weights from saturating."""
    with patch("deploykit.engine.lowering.cpu_int8.fit_weight", lambda values, scales, **_: (values, scales)):
        return lower_for_cpu(plain)


def _without_vnni(model: bytes, images: Array, scratch: Path) -> Array | None:
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if emulator is None:
        return None
    files = [scratch / name for name in ("emulated.onnx", "x.npy", "y.npy")]
    files[0].write_bytes(model)
    np.save(files[1], images)
    command = [emulator, "-cpu", "Haswell", sys.executable, "-c", RUN, *map(str, files)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    result: Array = np.load(files[2])
    return result


def _speed(phi: int, side_px: int, scratch: Path) -> None:
    scratch.mkdir()
    path = export_onnx(phi, side_px=side_px, output=scratch / "model.onnx").path
    plain = _quantized(path, "generated", limit=8)
    models = [path.read_bytes(), plain.SerializeToString(), lower_for_cpu(plain).SerializeToString()]
    x = np.random.default_rng(0).standard_normal((1, 3, side_px, side_px), np.float32)
    seconds = _take_turns([_call(model, x) for model in models])
    ms, ratios = 1e3 * np.median(seconds, axis=0), np.median(seconds[:, :1] / seconds, axis=0)
    print(
        f"{f'B{phi} at {side_px} px':24} {ms[0]:7.2f} ms "
        + " ".join(f"{each:7.2f} ms {ratio:5.2f} x" for each, ratio in zip(ms[1:], ratios[1:], strict=True))
    )


def _call(model: bytes, x: Array) -> Callable[[], object]:
    session = cpu_session(model, threads=1)
    return lambda: session.run(None, {INPUT_NAME: x})


def _take_turns(calls: list[Callable[[], object]]) -> npt.NDArray[np.float64]:
    """Processor seconds, (turns, calls)."""
    for call in calls * 3:
        call()
    seconds = np.zeros((TURNS, len(calls)))
    for turn in seconds:
        for position, call in enumerate(calls):
            start = time.process_time()
            call()
            turn[position] = time.process_time() - start
    return seconds


def _quantized(path: Path, data: str, *, limit: int) -> "ModelProto":
    """The model with plain Q/DQ pairs."""
    model = read_model(path)
    images = open_images(data, read_model_info(model).preprocessing, limit=limit)
    ranges = calibrate(path, images, CalibrationSettings(method=named_method("percentile")))
    return insert_qdq(model, place_int8(model, "pointwise"), ranges)


def _logits(model: bytes, images: Array, *, fuse_int8: bool) -> Array:
    (logits,) = cpu_session(model, fuse_int8=fuse_int8).run(None, {INPUT_NAME: images})
    result: Array = logits
    return result


if __name__ == "__main__":
    main()
