"""Boxes and scores -> detections: non-maximum suppression as the last nodes of the graph.

As with pixels, everything that looks into a model sees it without them: read_model takes them off, and
whoever writes a model or compiles it puts them on again, where its metadata say so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from deploykit.util.errors import DeployError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BOXES, SCORES, DETECTIONS = "boxes", "scores", "detections"
MAX_DETECTIONS = 1000
_PREFIX = "nms."
_CANDIDATES = 3000  # anchors of an image that go into it; TensorRT's TopK gives 3840 at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Nms:
    """Non-maximum suppression, of each class by itself.

    Attributes:
        score_threshold: what scores less is none.
        iou_threshold: a box goes where one of its class scores more, and they share more than this part of
            their union.
        max_detections: those of an image that score most.
    """

    score_threshold: Annotated[float, Meta(ge=0, lt=1)] = 0.05
    iou_threshold: Annotated[float, Meta(gt=0, le=1)] = 0.5
    max_detections: Annotated[int, Meta(ge=1, le=MAX_DETECTIONS)] = 100

    def __post_init__(self) -> None:
        if not (0 <= self.score_threshold < 1 and 0 < self.iou_threshold <= 1):
            raise DeployError(
                f"A score of {self.score_threshold:g} and an overlap of {self.iou_threshold:g} are not both "
                "parts of 1.",
                code="invalid-nms",
                fix="give, say, --score-threshold 0.05 --iou-threshold 0.5",
            )
        if not 1 <= self.max_detections <= MAX_DETECTIONS:
            raise DeployError(
                f"{self.max_detections} detections are not between 1 and {MAX_DETECTIONS}.",
                code="invalid-nms",
                fix="give, say, --max-detections 100",
            )


def has_nms(model: "ModelProto") -> bool:
    return any(node.name == f"{_PREFIX}{DETECTIONS}" for node in model.graph.node)


def with_nms(model: "ModelProto", nms: Nms) -> "ModelProto":
    """A copy that answers with `detections`, (n, max_detections, 6: left, top, right, bottom, score, class).

    They begin with the highest score; missing ones have score 0 and class -1.

    Args:
        model: its outputs are `boxes`, (n, anchors, 4), and `scores`, (n, anchors, classes).
    """
    from onnx import TensorProto, helper

    copy = type(model)()
    copy.CopyFrom(model)
    graph = copy.graph
    outputs = {value.name: value for value in graph.output}
    _, anchors, classes = (dim.dim_value for dim in outputs[SCORES].type.tensor_type.shape.dim)
    batch = outputs[SCORES].type.tensor_type.shape.dim[0].dim_param
    for name in (BOXES, SCORES):  # for without_nms to find
        graph.value_info.add().CopyFrom(outputs[name])
    written = _Written()
    _write(written, nms, candidates=min(_CANDIDATES, anchors), classes=classes)
    graph.node.extend(written.nodes)
    graph.initializer.extend(written.constants())
    del graph.output[:]
    shape = [batch, nms.max_detections, 6]
    graph.output.append(helper.make_tensor_value_info(DETECTIONS, TensorProto.FLOAT, shape))
    return copy


def without_nms(model: "ModelProto") -> "ModelProto":
    """A copy as it was before with_nms; the model itself where nothing was put on it."""
    if not has_nms(model):
        return model
    copy = type(model)()
    copy.CopyFrom(model)
    graph = copy.graph
    nodes = [node for node in graph.node if not node.name.startswith(_PREFIX)]
    constants = [tensor for tensor in graph.initializer if not tensor.name.startswith(_PREFIX)]
    values = {value.name: value for value in model.graph.value_info}
    del graph.node[:], graph.initializer[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    graph.output.extend(values.pop(name) for name in (BOXES, SCORES))
    graph.value_info.extend(values.values())
    return copy


class _Written:
    """Nodes and constants, named with the prefix."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    def __call__(self, op: str, reads: list[str], name: str, **attributes: Any) -> str:
        return self.several(op, reads, [name], **attributes)[0]

    def several(self, op: str, reads: list[str], names: list[str], **attributes: Any) -> list[str]:
        from onnx import helper

        made = [name if name == DETECTIONS else f"{_PREFIX}{name}" for name in names]
        self.nodes.append(helper.make_node(op, reads, made, name=f"{_PREFIX}{names[0]}", **attributes))
        return made

    def constant(self, name: str, value: npt.ArrayLike, kind: type[np.generic] = np.int64) -> str:
        self._arrays[f"{_PREFIX}{name}"] = np.asarray(value, kind)
        return f"{_PREFIX}{name}"

    def constants(self) -> "Iterator[Any]":
        from onnx import numpy_helper

        return (numpy_helper.from_array(array, name) for name, array in self._arrays.items())


def _write(add: _Written, nms: Nms, *, candidates: int, classes: int) -> None:
    """Suppression gives as many places as it keeps: their scores are laid over zeros, the highest taken."""
    last = add.constant("last_axis", [2])
    count = add.constant("candidates", [candidates])
    best = add("ReduceMax", [SCORES, last], "best", keepdims=0)
    _, chosen = add.several("TopK", [best, count], ["best_scores", "chosen"], axis=1)
    boxes = _taken(add, BOXES, chosen, 4, "candidate_boxes")
    scores = add(
        "Transpose", [_taken(add, SCORES, chosen, classes, "candidate_scores")], "by_class", perm=[0, 2, 1]
    )
    limits = [
        add.constant("of_each_class", [nms.max_detections]),
        add.constant("iou_threshold", [nms.iou_threshold], np.float32),
        add.constant("score_threshold", [nms.score_threshold], np.float32),
    ]
    kept = add("NonMaxSuppression", [boxes, scores, *limits], "kept")
    zeros = add("Mul", [scores, add.constant("zero", 0, np.float32)], "zeros")
    laid = add("ScatterND", [zeros, kept, add("GatherND", [scores, kept], "kept_scores")], "laid")
    flat = add("Reshape", [laid, add.constant("flat_shape", [0, -1])], "flat")
    most = add.constant("max_detections", [nms.max_detections])
    score, place = add.several("TopK", [flat, most], ["score", "place"], axis=1)
    each = add.constant("each_class", candidates)
    label = add("Cast", [add("Div", [place, each], "class_index")], "class_number", to=1)
    box = _taken(add, boxes, add("Mod", [place, each], "candidate"), 4, "box")
    columns = [add("Unsqueeze", [x, last], f"{x.removeprefix(_PREFIX)}_column") for x in (score, label)]
    found = add("Greater", [columns[0], add.constant("none", 0, np.float32)], "found")
    box = add("Where", [found, box, add.constant("no_box", 0, np.float32)], "found_box")
    label = add("Where", [found, columns[1], add.constant("no_class", -1, np.float32)], "found_class")
    add("Concat", [box, columns[0], label], DETECTIONS, axis=2)


def _taken(add: _Written, values: str, places: str, width: int, name: str) -> str:
    """Rows of (n, rows, width) at places (n, count)."""
    column = add("Unsqueeze", [places, add.constant(f"{name}.axis", [2])], f"{name}.column")
    index = add("Expand", [column, add.constant(f"{name}.shape", [1, 1, width])], f"{name}.index")
    return add("GatherElements", [values, index], name, axis=1)
