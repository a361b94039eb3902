"""INT8 accuracy of a trained EfficientNet-B0, beside ONNX Runtime's own quantizer.

    python benchmarks/int8_accuracy.py FOLDER

FOLDER holds efficientnet_b0_cifar10_64px.safetensors, cifar10_calib.npz and cifar10_val.npz
(arrays `images`, uint8 NHWC, and `labels`). Every model quantizes the same layers, pointwise
convolutions and the classifier, from the same calibration images, and runs unfused through ONNX
Runtime: the arithmetic TensorRT does.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploykit.evaluate import agreement, sqnr_db, top1
from deploykit.export import export_onnx
from deploykit.model_file import INPUT_NAME, info_of, read_model
from deploykit.precision import to_fp16
from deploykit.quantize.calibration import calibrate
from deploykit.quantize.images import open_images
from deploykit.quantize.placement import pointwise
from deploykit.quantize.qdq import insert_qdq
from deploykit.sessions import cpu_session

Array = npt.NDArray[np.float32]


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: int8_accuracy.py FOLDER")
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        exported = export_onnx(
            0,
            weights=folder / "efficientnet_b0_cifar10_64px.safetensors",
            side_px=64,
            output=Path(scratch, "model.onnx"),
        )
        preprocessing = exported.info.preprocessing
        archive = np.load(folder / "cifar10_val.npz")
        images, labels = preprocessing.normalize(archive["images"]), archive["labels"]
        reference = _logits(exported.path.read_bytes(), images)
        print(f"{'':48} top-1   agreement   SQNR")
        _report("FP32", reference, reference, labels)
        for name, model in _quantized(exported.path, folder / "cifar10_calib.npz"):
            _report(name, _logits(model, images), reference, labels)


def _quantized(path: Path, calibration: Path) -> Iterator[tuple[str, bytes]]:
    model = read_model(path)
    yield "FP16", to_fp16(model).SerializeToString()
    preprocessing = info_of(model).preprocessing
    ranges = calibrate(path, open_images(calibration, preprocessing, limit=512))
    generated = calibrate(path, open_images("generated", preprocessing, limit=512))
    for name, each in (
        ("deploykit, default, 512 images", ranges),
        ("deploykit, max, 512 images", replace(ranges, method="max")),
        ("deploykit, default, 512 generated images", generated),
    ):
        yield name, insert_qdq(model, pointwise(model), each).SerializeToString()
    yield from _onnxruntime(path, calibration)


def _onnxruntime(path: Path, calibration: Path) -> Iterator[tuple[str, bytes]]:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    model = read_model(path)
    chosen = {node.output for node in pointwise(model)}
    names = [node.name for node in model.graph.node if node.output[0] in chosen]
    preprocessing = info_of(model).preprocessing
    for method in (CalibrationMethod.MinMax, CalibrationMethod.Entropy):
        count = 512 if method == CalibrationMethod.MinMax else 128  # it keeps every activation in memory
        with tempfile.TemporaryDirectory() as scratch:
            quantized = Path(scratch, "int8.onnx")
            quantize_static(
                path,
                quantized,
                _Reader(open_images(calibration, preprocessing, limit=count).batches(32)),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QInt8,
                nodes_to_quantize=names,
                calibrate_method=method,
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
            )
            yield f"ONNX Runtime quantize_static, {method.name}, {count} images", quantized.read_bytes()


class _Reader:
    def __init__(self, batches: Iterator[Array]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Array] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch}


def _logits(model: bytes, images: Array) -> Array:
    (logits,) = cpu_session(model, fuse_int8=False).run(None, {INPUT_NAME: images})
    result: Array = logits
    return result


def _report(name: str, logits: Array, reference: Array, labels: npt.NDArray[np.int64]) -> None:
    print(
        f"{name:48} {100 * top1(logits, labels):5.2f} %  {100 * agreement(logits, reference):6.2f} %  "
        f"{sqnr_db(logits, reference):6.1f} dB"
    )


if __name__ == "__main__":
    main()
