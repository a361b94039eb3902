"""EfficientDet gives the outputs of efficientdet-pytorch for the same random weights."""

import numpy as np
import pytest
import torch
from refusals import refuses
from timm_models import effdet_model

from deploykit.networks.checkpoints.translate import translate_weights
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.export import prepare_export
from deploykit.networks.families.efficientdet import efficientdet
from deploykit.networks.member import choose_member
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.networks.scaling import Scale
from deploykit.onnx_tools.model_io import INPUT_NAME, to_bytes
from deploykit.onnx_tools.ort_session import cpu_session

CLASSES = 7
# Name there, member, side: as released, one whose maps have odd sides, one small.
MODELS = [
    ("tf_efficientdet_d0", "d0", 512),
    ("tf_efficientdet_d0", "d0", 160),
    ("tf_efficientdet_d1", "d1", 128),
    ("efficientdet_d0", "d0", 160),
    ("efficientdet_d0", "d0", 256),
    ("efficientdet_d1", "d1", 128),
]


def per_anchor(levels: list[torch.Tensor], values: int) -> np.ndarray:
    """As effdet.bench._post_process lays them out."""
    flat = [level.permute(0, 2, 3, 1).reshape(len(level), -1, values) for level in levels]
    return torch.cat(flat, 1).numpy()


def largest_difference(given: np.ndarray, expected: np.ndarray) -> float:
    """Relative to the largest."""
    assert given.shape == expected.shape
    return float(np.abs(given - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("name", "member", "side_px"), MODELS, ids=str)
def test_a_checkpoint_gives_the_boxes_and_scores_of_effdet(tmp_path, name, member, side_px):
    theirs = effdet_model(name, side_px=side_px, classes=CLASSES)
    from effdet.anchors import Anchors, decode_box_outputs

    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path)
    images = np.random.default_rng(0).standard_normal((2, 3, side_px, side_px), np.float32)
    with torch.inference_mode():
        classes, boxes = theirs(torch.from_numpy(images))
    logits, codes = per_anchor(classes, CLASSES), per_anchor(boxes, 4)
    anchors = Anchors.from_config(theirs.config).boxes
    expected = np.stack([decode_box_outputs(torch.from_numpy(each), anchors, True).numpy() for each in codes])

    network, weights, info = prepare_export(
        choose_member("efficientdet", named=member, side_px=side_px), weights=path
    )
    model = build_onnx_model(network, weights, info)
    heads = ["class_net.anchors", "box_net.anchors"]
    model.graph.output.extend(type(model.graph.output[0])(name=head) for head in heads)
    given = cpu_session(to_bytes(model)).run(["boxes", "scores", *heads], {INPUT_NAME: images})

    assert largest_difference(given[2], logits) <= 1e-4
    assert largest_difference(given[3], codes) <= 1e-4
    assert largest_difference(given[0], expected) <= 1e-4
    assert largest_difference(given[1], 1 / (1 + np.exp(-logits))) <= 1e-4
    assert logits.std() > 0.1
    assert codes.std() > 0.1


@pytest.mark.parametrize(
    ("name", "source"), [("tf_efficientdet_d0", "effdet-tf"), ("efficientdet_d0", "effdet")]
)
def test_the_source_is_recognized_by_redundant_biases(name, source):
    state = effdet_model(name, side_px=128).state_dict()
    arrays = {key: value.numpy() for key, value in state.items() if "num_batches" not in key}
    network = choose_member("efficientdet", phi=0).network()
    translated, chosen = translate_weights(Weights(state=arrays, origin="w.pth"), network)
    assert chosen == source
    assert translated.state.keys() == network.state_shapes.keys()


def test_a_source_without_detectors_is_refused():
    network = choose_member("efficientdet", phi=0).network()
    with refuses("source-family-mismatch") as caught:
        translate_weights(Weights(state={}, origin="w.pth"), network, "timm")
    assert "effdet or effdet-tf" in caught.value.fix


@pytest.mark.parametrize("phi", range(8))
def test_every_member_has_the_parameters_of_effdet(phi):
    from timm_models import _timm

    _timm()
    from effdet import EfficientDet, get_efficientdet_config

    with torch.device("meta"):
        theirs = EfficientDet(get_efficientdet_config(f"tf_efficientdet_d{phi}"), pretrained_backbone=False)
    network = choose_member("efficientdet", phi=phi).network()
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in theirs.state_dict().items()
        if "num_batches" not in name and name not in _redundant(network)
    }
    assert {name: tuple(shape) for name, shape in network.state_shapes.items()} == expected


def _redundant(network):
    return {f"{conv.prefix}.bias" for conv in network.convolutions if conv.norm is not None}


def test_every_member_has_the_anchors_of_effdet():
    from timm_models import _timm

    _timm()
    from effdet import get_efficientdet_config
    from effdet.anchors import Anchors

    for phi in range(8):
        network = choose_member("efficientdet", phi=phi).network()
        (decoding,) = (layer.anchors for layer in network.layers if hasattr(layer, "anchors"))
        centres = decoding.boxes()
        corners = np.concatenate(
            [centres[:, :2] - centres[:, 2:] / 2, centres[:, :2] + centres[:, 2:] / 2], axis=1
        )
        theirs = Anchors.from_config(get_efficientdet_config(f"tf_efficientdet_d{phi}")).boxes.numpy()
        np.testing.assert_allclose(corners[:, [1, 0, 3, 2]], theirs, atol=1e-3)


# ---------------------------------------------------------------- as data


def test_weights_shared_by_levels_count_once_as_parameters_and_per_level_as_macs():
    network = efficientdet(Scale(width=1, depth=1, side_px=512))
    sharing = [layer for layer in network.convolutions if layer.prefix == "class_net.predict.conv_pw"]
    assert [layer.output[1] for layer in sharing] == [64, 32, 16, 8, 4]
    assert [name for name in network.parameters if name.startswith("class_net.predict.conv_pw")] == [
        "class_net.predict.conv_pw.weight",
        "class_net.predict.conv_pw.bias",
    ]
    places = 64**2 + 32**2 + 16**2 + 8**2 + 4**2
    assert sum(layer.macs for layer in sharing) == 64 * 9 * 90 * places


def test_levels_share_a_tensor_in_onnx_unless_batch_norms_are_folded_in():
    member = choose_member("efficientdet", phi=0, side_px=128)
    model = build_onnx_model(*prepare_export(member))
    names = [tensor.name for tensor in model.graph.initializer]
    assert len(set(names)) == len(names)
    assert names.count("class_net.conv_rep.0.conv_dw.weight") == 1
    assert [f"class_net.{level}.conv_rep.0.conv_pw.weight" in names for level in range(5)] == [True] * 5
    assert "class_net.conv_rep.0.conv_pw.weight" not in names


def test_outputs_are_boxes_and_scores_per_anchor():
    network = efficientdet(Scale(width=1, depth=1, side_px=512), num_classes=3)
    assert network.output_shapes == {"boxes": (49104, 4), "scores": (49104, 3)}
    assert network.num_classes == 3


def test_a_single_class_keeps_its_dimension():
    network = efficientdet(Scale(width=1, depth=1, side_px=128), num_classes=1)
    assert network.output_shapes["scores"] == (3069, 1)
    assert network.num_classes == 1


def test_the_two_largest_members_have_no_fusion_weights():
    assert any(
        "edge_weights" in name for name in choose_member("efficientdet", named="d5").network().state_shapes
    )
    assert not any(
        "edge_weights" in name for name in choose_member("efficientdet", named="d6").network().state_shapes
    )


def test_each_axis_scales_its_own_part():
    base = Scale(width=1, depth=1, side_px=256)
    network = efficientdet(base)
    wide = efficientdet(Scale(width=2, depth=1, side_px=256))
    deep = efficientdet(Scale(width=1, depth=2, side_px=256))
    narrow = efficientdet(Scale(width=0.25, depth=0.25, side_px=128))
    assert len(network.layers) < len(deep.layers)
    assert wide.shapes["class_net.0.conv_rep.0.conv_dw"] == (128, 32, 32)
    assert deep.shapes["class_net.0.conv_rep.0.conv_dw"] == (64, 32, 32)
    assert narrow.parameter_count < network.parameter_count / 6


def test_a_side_that_is_too_small_is_refused():
    with refuses("invalid-side") as caught:
        choose_member("efficientdet", phi=0, side_px=96).network()
    assert "128" in caught.value.fix


@pytest.mark.parametrize("phi", [0, 4])
def test_random_weights_give_boxes_near_the_image(phi):
    network, weights, info = prepare_export(
        choose_member("efficientdet", phi=phi, side_px=256), num_classes=2
    )
    images = np.random.default_rng(0).standard_normal((1, *network.input), np.float32)
    session = cpu_session(to_bytes(build_onnx_model(network, weights, info)))
    boxes, scores = session.run(["boxes", "scores"], {INPUT_NAME: images})
    assert np.abs(boxes).max() < 10 * 256
    assert scores.mean() == pytest.approx(0.01, abs=0.005)  # the prior of Lin et al.
    assert scores.std() > 1e-7
