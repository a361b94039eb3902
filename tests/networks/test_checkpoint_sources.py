"""Checkpoints from other libraries give the logits of the models that wrote them."""

import re

import numpy as np
import pytest
import torch
from refusals import refuses
from safetensors.torch import save_file
from timm_models import logits_of, random_norms, timm_model, torchvision_model

from deploykit.networks.checkpoints.sources.registry import SOURCE_NAMES, SOURCES
from deploykit.networks.export import export_onnx, prepare_export
from deploykit.networks.member import choose_member
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.onnx_tools.model_io import INPUT_NAME, to_bytes
from deploykit.onnx_tools.ort_session import cpu_session

SIDE_PX = 96  # even, so that TensorFlow pads asymmetrically at stride 2


def difference(theirs: torch.nn.Module, path, family: str, member: str, source=None, **options) -> float:
    """Return the difference of their logits from the exported graph's, over the largest."""
    chosen = choose_member(family, named=member, side_px=SIDE_PX)
    graph = build_onnx_model(*prepare_export(chosen, weights=path, source=source, **options))
    images = np.random.default_rng(0).standard_normal((2, 3, SIDE_PX, SIDE_PX), np.float32)
    expected = logits_of(theirs, images)
    (given,) = cpu_session(to_bytes(graph)).run(None, {INPUT_NAME: images})
    return float(np.abs(given - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "family", "member"),
    [
        ("efficientnet_b0", "efficientnet", "b0"),
        ("efficientnet_b4", "efficientnet", "b4"),
        ("efficientnet_b5", "efficientnet", "b5"),  # different epsilon
        ("efficientnet_v2_s", "efficientnetv2-s", "s"),
        ("mobilenet_v2", "mobilenet-v2", "1.00"),
        ("resnet50", "resnet50", "50"),
    ],
)
def test_torchvision_checkpoints_give_the_logits_of_torchvision(tmp_path, name, family, member):
    theirs = torchvision_model(name)
    path = tmp_path / "w.safetensors"  # names are sorted, so that order carries no information
    save_file({key: value.contiguous() for key, value in theirs.state_dict().items()}, path)
    assert difference(theirs, path, family, member) < 1e-4


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "tf_efficientnetv2_b1"])
def test_tensorflow_ports_need_the_source_unless_the_file_name_shows_it(tmp_path, name):
    theirs = timm_model(name)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    family = "efficientnetv2" if "v2" in name else "efficientnet"
    assert difference(theirs, tmp_path / "w.pth", family, name[-2:], "tf-port") < 1e-4
    assert difference(theirs, tmp_path / "w.pth", family, name[-2:]) > 3e-4


def renamed(source: str, state: dict, network) -> dict:
    """Rename timm's state dict to a source's names."""
    names = SOURCES[source].layer_names(network)
    return {
        f"{names[prefix]}.{part}": value
        for name, value in state.items()
        for prefix, _, part in [name.rpartition(".")]
        if prefix in names and part != "num_batches_tracked"
    }


def test_lukemelas_and_nvidia_names_match_their_code():
    """Expected names are read from their code: the stem, an expanding block of the third stage, the head."""
    network = choose_member(phi=0).network()
    lukemelas, nvidia = (SOURCES[source].layer_names(network) for source in ("lukemelas", "nvidia"))
    for ours, one, other in (
        ("conv_stem", "_conv_stem", "stem.conv"),
        ("bn1", "_bn0", "stem.bn"),
        ("blocks.0.0.conv_dw", "_blocks.0._depthwise_conv", "layers.0.block0.depsep.conv"),
        ("blocks.0.0.bn2", "_blocks.0._bn2", "layers.0.block0.proj.bn"),
        ("blocks.2.1.conv_pw", "_blocks.4._expand_conv", "layers.2.block1.expand.conv"),
        ("blocks.2.1.bn1", "_blocks.4._bn0", "layers.2.block1.expand.bn"),
        ("blocks.2.1.se.conv_reduce", "_blocks.4._se_reduce", "layers.2.block1.se.squeeze"),
        ("blocks.2.1.se.conv_expand", "_blocks.4._se_expand", "layers.2.block1.se.expand"),
        ("blocks.2.1.conv_pwl", "_blocks.4._project_conv", "layers.2.block1.proj.conv"),
        ("conv_head", "_conv_head", "features.conv"),
        ("bn2", "_bn1", "features.bn"),
        ("classifier", "_fc", "classifier.fc"),
    ):
        assert (lukemelas[ours], nvidia[ours]) == (one, other)


@pytest.mark.parametrize("phi", [0, 3])
def test_efficientnet_pytorch_checkpoints_give_its_logits(tmp_path, phi):
    from efficientnet_pytorch import EfficientNet

    torch.manual_seed(0)
    theirs = random_norms(EfficientNet.from_name(f"efficientnet-b{phi}", image_size=SIDE_PX).eval())
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    assert difference(theirs, tmp_path / "w.pth", "efficientnet", f"b{phi}") < 1e-4


def test_lite_under_efficientnet_pytorch_names_gives_timm_logits_and_images_from_minus_1_to_1(tmp_path):
    theirs = timm_model("tf_efficientnet_lite0")
    network = choose_member("efficientnet-lite", named="lite0").network()
    state = renamed("lukemelas", theirs.state_dict(), network)
    torch.save(state, tmp_path / "w.pth")
    assert difference(theirs, tmp_path / "w.pth", "efficientnet-lite", "lite0") < 1e-4
    _, _, info = prepare_export(choose_member("efficientnet-lite", named="lite0"), weights=tmp_path / "w.pth")
    assert info.preprocessing.mean == info.preprocessing.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("stage", ["layers.{}.", "layer{}."], ids=["in the code", "on NGC"])
def test_nvidia_names_are_recognized_and_their_arithmetic_is_kept(tmp_path, stage):
    theirs = timm_model("efficientnet_b0")
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
    first = 0 if stage == "layers.{}." else 1
    state = {
        re.sub(r"layers\.(\d)\.", lambda found: stage.format(int(found[1]) + first), key): value
        for key, value in renamed("nvidia", theirs.state_dict(), choose_member(phi=0).network()).items()
    }
    state = {  # squeeze-excite has linear layers in some versions
        key: value[:, :, 0, 0] if ".se." in key and value.ndim == 4 else value for key, value in state.items()
    }
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pth")
    assert difference(theirs, tmp_path / "w.pth", "efficientnet", "b0") < 1e-4


@pytest.mark.parametrize("wrapped", ["state_dict", "model"])
def test_wrappers_of_training_scripts_are_removed(tmp_path, wrapped):
    theirs, averaged = timm_model("resnet18"), timm_model("resnet18")
    random_norms(averaged, seed=1)
    path = tmp_path / "checkpoint.pt"
    torch.save({wrapped: theirs.state_dict(), "state_dict_ema": averaged.state_dict(), "epoch": 3}, path)
    assert difference(theirs, path, "resnet18", "18") < 1e-4
    assert difference(averaged, path, "resnet18", "18", ema=True) < 1e-4
    torch.save({wrapped: theirs.state_dict()}, path)
    with refuses("checkpoint-has-no-ema"):
        prepare_export(choose_member("resnet18"), weights=path, ema=True)


def test_the_number_of_classes_is_inferred_from_the_checkpoint(workplace):
    theirs = torchvision_model("efficientnet_b0", classes=7)
    torch.save(theirs.state_dict(), "w.pth")
    assert export_onnx(0, side_px=32, weights="w.pth").network.num_classes == 7


@pytest.mark.parametrize("option", [{"source": "timm"}, {"ema": True}])
def test_options_about_weights_are_refused_without_weights(option):
    with refuses("option-not-applicable"):
        prepare_export(0, **option)


def test_every_source_names_every_parameter_of_its_networks():
    networks = {"effdet": choose_member("efficientdet", phi=0).network()}
    networks["effdet-tf"] = networks["effdet"]
    for source in SOURCE_NAMES:
        network = networks.get(source, choose_member(phi=1).network())
        names = SOURCES[source].layer_names(network)
        assert {f"{name}.weight" for name in names} == {
            name for name in network.state_shapes if name.endswith(".weight")
        }
        assert len(set(names.values())) == len(names)
