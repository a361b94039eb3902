"""Every family compiled for a GPU that is not here, and run on the CPU: real builds, no special cases."""

import numpy as np
import pytest
import torch
from refusals import refuses

from deploykit import Engine, build_engine, export_onnx, quantize_model
from deploykit.accuracy.evaluate import evaluate_model
from deploykit.networks.export import prepare_export
from deploykit.networks.member import choose_member
from deploykit.quantize.int8_options import Int8Options

# The smallest published member of each family, and a larger network.
NETWORKS = [
    ("efficientnet", {"named": "b0"}),
    ("efficientnet", {"phi": 2}),
    ("efficientnet-lite", {"named": "lite0"}),
    ("efficientnet-lite", {"named": "lite3"}),
    ("efficientnetv2", {"named": "b0"}),
    ("efficientnetv2", {"named": "b3"}),
    ("efficientnetv2-s", {"named": "s"}),
    ("mobilenet-v2", {"named": "0.35"}),
    ("mobilenet-v2", {"named": "1.40"}),
    ("mobilenet-v2-d", {"named": "110d"}),
    ("resnet18", {"named": "18"}),
    ("resnet18", {"depth": 1.5, "width": 1.25}),
    ("resnet50", {"named": "50"}),
]


@pytest.mark.parametrize(("family", "which"), NETWORKS, ids=str)
def test_a_family_is_exported_compiled_in_fp16_and_int8_and_run(workplace, family, which):
    member = choose_member(family, **which, side_px=96)
    exported = export_onnx(member, num_classes=10)
    assert exported.info.family == family
    for precision in ("fp16", "int8"):
        built = build_engine(onnx=exported.path, precision=precision, gpu="A10")
        assert built.manifest.model.family == family
        assert built.manifest.audit.macs_share(precision) > 0.75
    on_cpu = build_engine(onnx=exported.path, precision="int8", gpu="cpu")
    with Engine.load(on_cpu.path) as engine:
        assert engine(np.zeros((2, 3, 96, 96), np.float32)).shape == (2, 10)


# The smallest, with maps of odd sides; a larger one; one as wide as D6, whose sums have no weights.
DETECTORS = [({"named": "d0"}, 160), ({"named": "d1"}, 128), ({"width": 6.0, "depth": 0.2}, 128)]


@pytest.mark.parametrize(("which", "side_px"), DETECTORS, ids=str)
def test_a_detector_is_compiled_in_fp16_and_int8_and_outputs_boxes_and_scores(workplace, which, side_px):
    member = choose_member("efficientdet", **which, side_px=side_px)
    exported = export_onnx(member, num_classes=4)
    anchors = exported.network.output_shapes["boxes"][0]
    for precision in ("fp16", "int8"):
        built = build_engine(onnx=exported.path, precision=precision, gpu="A10")
        assert built.manifest.audit.macs_share(precision) > 0.75
        assert [(each.name, each.shape) for each in built.manifest.outputs] == [
            ("boxes", (anchors, 4)),
            ("scores", (anchors, 4)),
        ]
    images = np.random.default_rng(0).standard_normal((2, 3, side_px, side_px), np.float32)
    answers = {}
    for precision in ("fp32", "int8"):
        on_cpu = build_engine(onnx=exported.path, precision=precision, gpu="cpu")
        with Engine.load(on_cpu.path) as engine:
            answers[precision] = engine(images)
    assert {name: each.shape for name, each in answers["int8"].items()} == {
        "boxes": (2, anchors, 4),
        "scores": (2, anchors, 4),
    }
    moved_px = np.abs(answers["int8"]["boxes"] - answers["fp32"]["boxes"])
    assert 0 < moved_px.mean() < 0.02 * side_px
    assert np.abs(answers["int8"]["scores"] - answers["fp32"]["scores"]).max() < 0.02


def test_a_detectors_weighted_sums_stay_in_float(workplace):
    exported = export_onnx(choose_member("efficientdet", phi=0, side_px=128))
    _, plan = quantize_model(onnx=exported.path, int8=Int8Options(policy="bandwidth"))
    carried = {each.output for each in plan.placement.dequantized_inputs}
    assert "backbone.blocks.1.1.add" in carried
    assert not {name for name in carried if name.startswith("fpn")}


def test_top1_of_a_detector_is_refused(workplace):
    exported = export_onnx(choose_member("efficientdet", phi=0, side_px=128))
    on_cpu = build_engine(onnx=exported.path, gpu="cpu")
    for call in (
        lambda: evaluate_model(exported.path, "generated"),
        lambda: evaluate_model(on_cpu.path, "generated"),
        lambda: quantize_model(onnx=exported.path, int8=Int8Options(eval_data="generated")),
    ):
        with refuses("not-a-classifier"):
            call()


def test_weights_of_another_family_are_refused(workplace):
    _, weights, _ = prepare_export(choose_member("resnet18", side_px=32), num_classes=3)
    torch.save({name: torch.from_numpy(value) for name, value in weights.state.items()}, "r18.pth")
    with refuses("checkpoint-unrecognized"):
        export_onnx(0, weights="r18.pth")
    assert not (workplace / "engines").exists()
