"""A classifier small enough to compute by hand: its logits are the mean red, green and blue of an image."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from deploykit.data.preprocessing import Preprocessing
from deploykit.networks.model_info import ModelInfo, set_model_info
from deploykit.util.atomic_files import file_sha256

SIDE_PX = 8
PREPROCESSING = Preprocessing(side_px=SIDE_PX, mean=(0, 0, 0), std=(1, 1, 1))
INFO = ModelInfo(
    family="colours", phi=None, rule=None, precision="fp32", preprocessing=PREPROCESSING, weights="trained"
)

# The last is 0.8, 1, 0: rounded to integers, red and green are equal and red, the first, wins.
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (102, 153, 0), (204, 255, 0))
LABELS = (0, 1, 2, 1, 1)
# Of those five: 1 + 1 + 1 + (0.4^2 + 0.6^2) + (0.8^2 + 1), over (0.4^2 + 0.4^2) + 0.2^2.
SQNR_DB = 10 * np.log10(5.16 / 0.36)


def write_fp32(path: Path, *, info: ModelInfo | None = INFO, end: str | None = None, repeat: int = 1) -> Path:
    """Write the model.

    Args:
        path: The file.
        info: Its metadata.
        end: An operator applied to the logits.
        repeat: How often the three classes are repeated.
    """
    return _write(path, [], info=info, end=end, repeat=repeat)


def write_int8(path: Path, *, of: Path | None, stamped: bool = True) -> Path:
    """Write the model with its logits rounded to integers by Q/DQ."""
    sha256 = "0" * 64 if of is None else file_sha256(of)
    info = INFO.derive(precision="int8", onnx_sha256=sha256) if stamped else None
    return _write(path, ["QuantizeLinear", "DequantizeLinear"], info=info)


def write_images(folder: Path, *, labelled: bool = True, classes: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """Write the five images, in one folder per class or flat."""
    for name in classes if labelled else ():
        (folder / name).mkdir(parents=True)
    folder.mkdir(exist_ok=True)
    for number, (colour, label) in enumerate(zip(COLOURS, LABELS, strict=True)):
        place = folder / classes[label] if labelled else folder
        Image.new("RGB", (SIDE_PX, SIDE_PX), colour).save(place / f"{number}.png")
    return folder


def _write(
    path: Path, rounding: list[str], *, info: ModelInfo | None, end: str | None = None, repeat: int = 1
) -> Path:
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "identity"], ["same"]),  # an engine needs a matrix product
        helper.make_node("Concat", ["same"] * repeat, ["logits0"], axis=1),
    ]
    for kind in rounding:
        last = nodes[-1].output[0]
        nodes.append(helper.make_node(kind, [last, "scale", "zero"], [f"{last}_"]))
    if end is not None:
        nodes.append(helper.make_node(end, [nodes[-1].output[0]], ["end"]))
    nodes[-1].output[0] = "logits"
    shapes = {"input": ["batch", 3, SIDE_PX, SIDE_PX], "logits": ["batch", 3 * repeat]}
    taken, given = (helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes.items())
    constants = [numpy_helper.from_array(np.eye(3, dtype=np.float32), "identity")]
    if rounding:
        constants.append(numpy_helper.from_array(np.float32(1), "scale"))
        constants.append(numpy_helper.from_array(np.int8(0), "zero"))
    graph = helper.make_graph(nodes, "colours", [taken], [given], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if info is not None:
        set_model_info(model, info)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
