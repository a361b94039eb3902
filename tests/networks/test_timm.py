"""Networks give the logits of timm's models for the same random weights."""

import numpy as np
import pytest
import torch
from timm_models import logits_of, timm_model

from deploykit import Engine, SideRange, build_engine, export_onnx
from deploykit.networks.export import prepare_export
from deploykit.networks.member import choose_member
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.onnx_tools.model_io import INPUT_NAME, to_bytes
from deploykit.onnx_tools.ort_session import cpu_session

# Family, member, timm's name; every one of up to 40 M parameters.
MEMBERS = [
    *[("efficientnet", f"b{phi}", f"efficientnet_b{phi}") for phi in range(6)],
    *[("efficientnet-lite", f"lite{phi}", f"efficientnet_lite{phi}") for phi in range(5)],
    *[("efficientnetv2", f"b{phi}", f"tf_efficientnetv2_b{phi}") for phi in range(4)],
    ("efficientnetv2-s", "s", "efficientnetv2_s"),
    ("efficientnetv2-s", "s", "tf_efficientnetv2_s"),
    ("efficientnet", "b0", "tf_efficientnet_b0"),
    ("efficientnet", "b3", "tf_efficientnet_b3"),
    ("efficientnet-lite", "lite1", "tf_efficientnet_lite1"),
    ("mobilenet-v2", "0.35", "mobilenetv2_035"),
    ("mobilenet-v2", "0.50", "mobilenetv2_050"),
    ("mobilenet-v2", "0.75", "mobilenetv2_075"),
    ("mobilenet-v2", "1.00", "mobilenetv2_100"),
    ("mobilenet-v2", "1.40", "mobilenetv2_140"),
    ("mobilenet-v2-d", "110d", "mobilenetv2_110d"),
    ("mobilenet-v2-d", "120d", "mobilenetv2_120d"),
    *[(f"regnety-{size}00mf", f"{size}00mf", f"regnety_00{size}") for size in (2, 4, 6, 8)],
    ("resnet18", "18", "resnet18"),
    ("resnet34", "34", "resnet34"),
    ("resnet50", "50", "resnet50"),
]


@pytest.mark.parametrize(("family", "member", "name"), MEMBERS, ids=[name for _, _, name in MEMBERS])
def test_a_timm_checkpoint_gives_its_logits(tmp_path, family, member, name):
    theirs = timm_model(name)
    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path)
    # TensorFlow pads to one side where a stride of 2 meets an even map, PyTorch meets a border at an odd one.
    source, side_px = ("tf-port", 96) if name.startswith("tf_") else (None, 97)
    member_there = choose_member(family, named=member, side_px=side_px)
    network, weights, info = prepare_export(member_there, weights=path, source=source)
    images = np.random.default_rng(0).standard_normal((2, 3, side_px, side_px), np.float32)
    expected = logits_of(theirs, images)
    (given,) = cpu_session(to_bytes(build_onnx_model(network, weights, info))).run(None, {INPUT_NAME: images})
    assert np.abs(given - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(expected).max() > 1e-3


def test_a_tensorflow_port_pads_as_tensorflow_does_at_every_side(tmp_path):
    theirs = timm_model("tf_efficientnet_b0")
    path = tmp_path / "tf_efficientnet_b0.pth"  # so called, its source needn't be named
    torch.save(theirs.state_dict(), path)
    exported = export_onnx(choose_member("efficientnet", side_px=128), weights=path, output=tmp_path)
    sides = SideRange(min=96, opt=128, max=161)
    built = build_engine(onnx=exported.path, precision="fp32", gpu="cpu", side=sides)
    with Engine.load(built.path) as engine:
        for side_px in (96, 97, 128, 161):
            images = np.random.default_rng(0).standard_normal((1, 3, side_px, side_px), np.float32)
            expected = logits_of(theirs, images)
            assert np.abs(engine(images) - expected).max() <= 1e-4 * np.abs(expected).max()
