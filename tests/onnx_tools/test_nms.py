"""Non-maximum suppression in the graph, against one written plainly and effdet's own detections."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from refusals import refuses
from timm_models import effdet_model

from deploykit import Engine, build_engine, export_onnx
from deploykit.engine import compilers
from deploykit.networks.member import choose_member
from deploykit.networks.model_info import read_model_info
from deploykit.onnx_tools.model_io import read_model, to_bytes
from deploykit.onnx_tools.nms import Nms, with_nms, without_nms
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.util.errors import DeployError

CLASSES, ANCHORS, SIDE_PX = 3, 60, 128


def identity() -> onnx.ModelProto:
    """Answers with the boxes and scores that it is given."""
    shapes = {"boxes": (ANCHORS, 4), "scores": (ANCHORS, CLASSES)}
    inputs, outputs = (
        [
            helper.make_tensor_value_info(f"{prefix}{name}", TensorProto.FLOAT, ["batch", *shape])
            for name, shape in shapes.items()
        ]
        for prefix in ("given.", "")
    )
    nodes = [helper.make_node("Identity", [f"given.{name}"], [name]) for name in shapes]
    graph = helper.make_graph(nodes, "identity", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def suppressed(boxes: np.ndarray, scores: np.ndarray, nms: Nms) -> np.ndarray:
    """One image's detections: greedily, class by class."""
    found = []
    for label in range(scores.shape[1]):
        kept: list[int] = []
        for at in np.argsort(-scores[:, label], kind="stable"):
            if scores[at, label] > nms.score_threshold and all(
                overlap(boxes[at], boxes[other]) <= nms.iou_threshold for other in kept
            ):
                kept.append(at)
        found += [(*boxes[at], scores[at, label], label) for at in kept]
    found = sorted(found, key=lambda each: -each[4])[: nms.max_detections]
    missing = [(0, 0, 0, 0, 0, -1)] * (nms.max_detections - len(found))
    return np.array(found + missing, np.float32)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = np.prod(np.maximum(high - low, 0))
    areas = [np.prod(each[2:] - each[:2]) for each in (one, other)]
    return float(shared / (sum(areas) - shared))


def random_boxes(images: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    centres = generator.uniform(0, 100, (images, ANCHORS, 2))
    sizes = generator.uniform(20, 60, (images, ANCHORS, 2))
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=2)
    scores = generator.uniform(0, 1, (images, ANCHORS, CLASSES))
    return boxes.astype(np.float32), scores.astype(np.float32)


@pytest.mark.parametrize(
    "nms",
    [
        Nms(),
        Nms(score_threshold=0.6, iou_threshold=0.3),
        Nms(max_detections=7),
        Nms(score_threshold=0.98),  # hardly any
        Nms(iou_threshold=1.0, max_detections=1),
    ],
    ids=str,
)
def test_detections_are_those_of_greedy_suppression_class_by_class(nms):
    boxes, scores = random_boxes(3)
    session = cpu_session(to_bytes(with_nms(identity(), nms)))
    (given,) = session.run(None, {"given.boxes": boxes, "given.scores": scores})
    assert given.shape == (3, nms.max_detections, 6)
    expected = np.stack([suppressed(*each, nms) for each in zip(boxes, scores, strict=True)])
    np.testing.assert_allclose(given, expected, atol=1e-5)


def test_it_is_taken_off_again_to_the_byte():
    model = identity()
    assert to_bytes(without_nms(with_nms(model, Nms()))) == to_bytes(model)
    assert without_nms(model) is model


def test_detections_are_effdets(tmp_path, monkeypatch):
    theirs = effdet_model("tf_efficientdet_d0", side_px=SIDE_PX, classes=CLASSES)
    import effdet.anchors
    from effdet.bench import _post_process

    def batched_nms(boxes, scores, classes, iou_threshold):
        """In place of torchvision's, whose operators are not there."""
        kept: list[int] = []
        for at in torch.argsort(-scores, stable=True).tolist():
            rivals = [other for other in kept if classes[other] == classes[at]]
            if all(overlap(boxes[at].numpy(), boxes[other].numpy()) <= iou_threshold for other in rivals):
                kept.append(at)
            if len(kept) == 20:
                break
        return torch.tensor(kept)

    monkeypatch.setattr(effdet.anchors, "batched_nms", batched_nms)
    images = np.random.default_rng(0).standard_normal((2, 3, SIDE_PX, SIDE_PX), np.float32)
    with torch.inference_mode():
        candidates = _post_process(*theirs(torch.from_numpy(images)), num_levels=5, num_classes=CLASSES)
    boxes = effdet.anchors.Anchors.from_config(theirs.config).boxes
    expected = np.stack(
        [
            effdet.anchors.generate_detections(logits, codes, boxes, at, labels, None, None, 20).numpy()
            for logits, codes, at, labels in zip(*candidates, strict=True)
        ]
    )
    expected[..., 5] -= 1  # whose classes begin with 1

    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path)
    member = choose_member("efficientdet", phi=0, side_px=SIDE_PX)
    exported = export_onnx(member, weights=path, nms=Nms(max_detections=20), output=tmp_path / "model.onnx")
    (given,) = cpu_session(exported.path).run(None, {"input": images})
    np.testing.assert_allclose(given[..., 4], expected[..., 4], atol=1e-5)
    np.testing.assert_array_equal(given[..., 5], expected[..., 5])
    np.testing.assert_allclose(given[..., :4], expected[..., :4], atol=1e-2)


@pytest.fixture
def exported(workplace):
    member = choose_member("efficientdet", phi=0, side_px=SIDE_PX)
    return export_onnx(member, nms=Nms(score_threshold=0.001, max_detections=5), num_classes=CLASSES)


def test_calibration_sees_boxes_and_scores_and_the_engine_answers_with_detections(exported):
    model = read_model(exported.path)
    assert [value.name for value in model.graph.output] == ["boxes", "scores"]
    assert read_model_info(model).nms == Nms(score_threshold=0.001, max_detections=5)
    for precision in ("fp32", "int8"):
        built = build_engine(onnx=exported.path, precision=precision, gpu="cpu")
        with Engine.load(built.path) as engine:
            detections = engine(np.zeros((2, 3, SIDE_PX, SIDE_PX), np.float32))
        assert detections.shape == (2, 5, 6)
        assert (np.diff(detections[..., 4], axis=1) <= 0).all()
        assert set(detections[..., 5].ravel().tolist()) <= {0.0, 1.0, 2.0}


def test_tensorrt_rtx_is_refused_with_what_else_to_do(exported):
    with refuses("nms-unsupported") as caught:
        build_engine(onnx=exported.path, precision="fp16", gpu="A10")
    assert "--gpu cpu" in caught.value.fix


def test_tensorrt_rtx_itself_has_no_kernel_for_it_still(exported, monkeypatch):
    """Where this fails, a new version has one, and compilers.py may say so."""
    rtx = replace(compilers.COMPILERS["tensorrt-rtx"], has_nms=True)
    monkeypatch.setitem(compilers.COMPILERS, "tensorrt-rtx", rtx)
    with pytest.raises(DeployError, match="no runners"):
        build_engine(onnx=exported.path, precision="fp16", gpu="A10")


DETECTOR = ("--family", "efficientdet", "--phi", "0")


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (("--phi", "0", "--nms"), "nms-not-applicable"),
        ((*DETECTOR, "--max-detections", "9"), "--max-detections has no effect without --nms"),
        ((*DETECTOR, "--nms", "--max-detections", "0"), "0 detections are not"),
        ((*DETECTOR, "--nms", "--iou-threshold", "0"), "are not both parts of 1"),
        ((*DETECTOR, "--nms", "--score-threshold", "nan"), "are not both parts of 1"),
    ],
)
def test_what_makes_no_suppression_is_refused(run, arguments, about):
    refused = run("export", *arguments)
    assert (refused.status, refused.out) == (2, "")
    assert about in refused.err
