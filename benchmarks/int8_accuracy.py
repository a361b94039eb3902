"""INT8 accuracy of two trained EfficientNet-B0, beside ONNX Runtime's and NVIDIA ModelOpt's quantizers.

    python benchmarks/int8_accuracy.py FOLDER

FOLDER holds efficientnet_b0_cifar10_64px.safetensors, the same of an earlier point of training as
efficientnet_b0_cifar10_64px_hard.safetensors, cifar10_calib.npz and cifar10_val.npz (arrays
`images`, uint8 NHWC, and `labels`). Prints a Markdown table a model.

All but one calibrate on images of the same archive, and all run unfused through ONNX Runtime: the
arithmetic TensorRT does. `INT8` is the share of multiplications whose both factors were rounded to
INT8. What finer rounding of weights could gain shows where weights alone are rounded; what correcting
biases could, in the part of the noise that is the same for all images.
ONNX Runtime's histogram methods keep every activation of every image in memory, so they see fewer.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from peers.contenders import Contender, modelopt, onnxruntime
from peers.data import CALIBRATION, HARD_MODEL, MODEL, VALIDATION, folder_argument
from peers.deploykit_side import AUTO, DEFAULT_POLICY, deploykit
from peers.int8_share import int8_mac_share
from peers.noise import systematic_share, with_float_activations
from peers.pictures import normalize
from peers.processes import MODELOPT_MISSING, MODELOPT_PYTHON, Unfinished, measure
from peers.scores import COLUMNS, logits, score
from tables import heading, row

SIDE_PX = 64
ONNXRUNTIME_IMAGES = {"minmax": 512, "percentile-99.99": 256, "percentile-99.9": 256, "entropy": 128}
MODELOPT_IMAGES = {"ModelOpt max": 512, "ModelOpt entropy": 128}
DEPLOYKIT_IMAGES = 512
TIMEOUT_S = 240  # on the hard model ModelOpt's entropy did not end in 15 minutes either
POINTWISE = frozenset({"conv_pw", "conv_pwl", "conv_head", "classifier"})  # timm's names, which exports keep


def main() -> None:
    folder = folder_argument(MODEL, HARD_MODEL)
    for name in (MODEL, HARD_MODEL):
        print()
        print(heading(name, "images", "layers in INT8", "INT8", *COLUMNS))
        with tempfile.TemporaryDirectory() as scratch:
            _compare(folder / f"{name}.safetensors", folder, Path(scratch))
    if not MODELOPT_PYTHON.exists():
        print(f"\nModelOpt {MODELOPT_MISSING}.")


def _compare(weights: Path, folder: Path, scratch: Path) -> None:
    from deploykit.networks.export import export_onnx

    model = export_onnx(0, weights=weights, side_px=SIDE_PX, output=scratch / "model.onnx").path
    with np.load(folder / VALIDATION) as archive:
        images, labels = normalize(archive["images"]), archive["labels"]
    reference, remark = logits(model, images), ""
    print(row("FP32", "", "none", "0%", *score(reference, reference, labels).cells()))
    fp16 = logits(_fp16(model), images)
    print(row("deploykit FP16", "", "none", "0%", *score(fp16, reference, labels).cells()))
    for each, count in _contenders(model, folder / CALIBRATION, scratch):
        output = scratch / "quantized.onnx"
        try:
            _make(each, count, output)
        except Unfinished as error:
            print(error, file=sys.stderr)
            print(row(each.name, str(count), each.placement, error.reason, *[""] * len(COLUMNS)), flush=True)
            continue
        quantized, given = onnx.load(output), logits(output, images)
        cells = score(given, reference, labels).cells()
        print(
            row(each.name, str(count), each.placement, f"{int8_mac_share(quantized):.0%}", *cells), flush=True
        )
        if (each.name, each.placement) == (f"deploykit {AUTO}", DEFAULT_POLICY):
            floating = logits(with_float_activations(quantized).SerializeToString(), images)
            cells = score(floating, reference, labels).cells()
            print(row("the same, weights alone", str(count), each.placement, "", *cells), flush=True)
            remark = f"{systematic_share(given, reference):.1%} of its noise is the same for all images."
        output.unlink()
    print(f"\ndeploykit {AUTO}, {DEFAULT_POLICY}: {remark}")


def _fp16(model: Path) -> bytes:
    from deploykit.onnx_tools.fp16 import to_fp16
    from deploykit.onnx_tools.model_io import read_model

    data: bytes = to_fp16(read_model(model)).SerializeToString()
    return data


def _contenders(model: Path, data: Path, scratch: Path) -> Iterator[tuple[Contender, int]]:
    """With the number of images each is given."""
    for own in deploykit(model, data):
        yield own, DEPLOYKIT_IMAGES
    for own in deploykit(model, Path("generated"), methods=[AUTO], on=" on generated images"):
        yield own, DEPLOYKIT_IMAGES
    for nodes in (_pointwise_nodes(model, scratch / "pointwise"), None):
        for method, count in ONNXRUNTIME_IMAGES.items():
            for each in onnxruntime(model, data, [method], nodes):
                yield each, count
    for each in modelopt(model, data):
        yield each, MODELOPT_IMAGES[each.name]


def _make(contender: Contender, count: int, output: Path) -> None:
    """Writes the quantized model; one calibration serves all placements that follow it."""
    if contender.finish is None:
        measure(contender.command(count, output), timeout_s=TIMEOUT_S)
        return
    ranges = output.with_name(f"{contender.name}.ranges.json")
    if not ranges.exists():
        measure(contender.command(count, ranges))
    measure(contender.finish(ranges, output))


def _pointwise_nodes(model: Path, path: Path) -> Path:
    """Writes the names of the nodes that deploykit's policy of the same name puts in INT8, one a line."""
    names = (node.name for node in onnx.load(model).graph.node)
    chosen = (name for name in names if name.rpartition(".")[2] in POINTWISE)
    path.write_text("\n".join(chosen), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
