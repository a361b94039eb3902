"""Checkpoints are recognized, and unsupported ones are described."""

import json
import pickle
import re

import pytest
import torch
from refusals import refuses
from timm_models import timm_model, torchvision_model

from deploykit.networks.checkpoints.load import load_weights
from deploykit.networks.checkpoints.recognize import describe_checkpoint, recognize
from deploykit.networks.checkpoints.sources.registry import SOURCES
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.export import prepare_export
from deploykit.networks.member import choose_member, member_options
from deploykit.networks.random_weights import random_weights


def saved(model: torch.nn.Module, path) -> Weights:
    torch.save(model.state_dict(), path)
    return load_weights(path)


@pytest.mark.parametrize(
    ("model", "network", "source"),
    [
        ((timm_model, "efficientnet_b1"), "--family efficientnet --member b1", "timm"),
        ((timm_model, "tf_efficientnet_lite0"), "--family efficientnet-lite --member lite0", "timm"),
        ((timm_model, "mobilenetv2_050"), "--family mobilenet-v2 --member 0.50", "timm"),
        ((timm_model, "regnety_002"), "--family regnety-200mf --member 200mf", "timm"),
        ((timm_model, "resnet34"), "--family resnet34 --member 34", "timm"),
        ((torchvision_model, "efficientnet_b0"), "--family efficientnet --member b0", "torchvision"),
        ((torchvision_model, "mobilenet_v2"), "--family mobilenet-v2 --member 1.00", "torchvision"),
    ],
)
def test_a_complete_checkpoint_is_recognized_with_any_number_of_classes(tmp_path, model, network, source):
    make, name = model
    match = recognize(saved(make(name, classes=7), tmp_path / "w.pth"))
    assert (member_options(match.member), match.source) == (network, source)
    assert match.tensors.is_complete
    assert match.network.num_classes == 7


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("vit_tiny_patch16_224", "a vision transformer"),
        ("swin_tiny_patch4_window7_224", "a Swin Transformer"),
        ("convnext_atto", "a ConvNeXt"),
        ("densenet121", "a DenseNet"),
        ("mobilenetv3_small_050", "a MobileNetV3"),
        ("regnetx_032", "a RegNet"),
    ],
)
def test_an_unsupported_network_is_named_in_the_error(tmp_path, run, name, network):
    saved(timm_model(name), tmp_path / "w.pth")
    result = run("import-weights", "w.pth")
    assert result.status == 2
    assert f"w.pth looks like {network}, which deploykit does not support." in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_an_unknown_network_is_described_by_its_first_tensors():
    assert "its first tensors: a.b, c.d)" in describe_checkpoint(
        Weights(state={"a.b": 0, "c.d": 0}, origin="x")
    )
    assert describe_checkpoint(Weights(state={}, origin="x")) == "an empty file"


def test_weights_of_a_different_network_are_refused_with_its_name(tmp_path):
    saved(timm_model("resnet18"), tmp_path / "w.pth")
    with refuses("checkpoint-unrecognized") as caught:
        prepare_export(0, weights=tmp_path / "w.pth")
    assert "--family resnet18 --member 18 under the names of timm" in caught.value.problem


def test_half_matching_names_are_counted(tmp_path, run):
    state = timm_model("resnet18").state_dict()
    half = {f"{'x.' if at % 2 else ''}{name}": tensor for at, (name, tensor) in enumerate(state.items())}
    torch.save(half, tmp_path / "w.pth")
    result = run("import-weights", "w.pth", "--check", "--json")
    assert result.status == 2
    facts = json.loads(result.out)
    assert facts["network"] == "--family resnet18 --member 18"
    assert not facts["fits"]
    assert len(facts["missing"]) == len(facts["unknown"]) > 0
    assert facts["matched"] + len(facts["missing"]) == len(choose_member("resnet18").network().state_shapes)
    assert re.search(r"the best match is .*--member 18 .*, with [34]\d% of its tensors", result.err)
    assert "a variant that deploykit does not support" in result.err


def test_a_different_number_of_classes_is_not_called_a_variant(tmp_path, run):
    saved(timm_model("resnet18"), tmp_path / "w.pth")
    result = run("import-weights", "w.pth", "--num-classes", "7")
    assert result.status == 2
    assert "the --num-classes it was trained with" in result.err


def test_a_check_writes_nothing_and_an_import_writes_what_export_would(tmp_path, run):
    saved(timm_model("efficientnet_lite0", classes=5), tmp_path / "w.pth")
    checked = run("import-weights", "w.pth", "--check", "--side", "64")
    assert checked.status == 0
    assert "network: --family efficientnet-lite --member lite0 --side 64, 5 classes" in checked.out
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]
    assert run("import-weights", "w.pth", "--side", "64", "-o", "a.onnx").status == 0
    member = ("--family", "efficientnet-lite", "--member", "lite0", "--side", "64")
    assert run("export", *member, "--weights", "w.pth", "-o", "b.onnx").status == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("file", "family", "source", "mean"),
    [
        ("tf_efficientnet_b0_ap-4b2f4ce.pth", "efficientnet", "tf-port", 0.5),
        ("tf_efficientnet_b0_aa-827b6e3.pth", "efficientnet", "tf-port", 0.485),
        ("tf_efficientnet_lite0-0aa007d.pth", "efficientnet-lite", "tf-port", 0.5),
        ("adv-efficientnet-b0-b64d5a1.pth", "efficientnet", "lukemelas", 0.5),
        ("efficientnet-b0-355c32e.pth", "efficientnet", "lukemelas", 0.485),
        ("rw.pth", "efficientnet", "timm", 0.485),
    ],
)
def test_published_file_names_give_source_and_normalization(tmp_path, file, family, source, mean):
    """Expected: timm's default_cfgs, and EfficientNet-PyTorch's README on advprop."""
    member = choose_member(family, side_px=64)
    network = member.network()
    names = SOURCES[source].layer_names(network)
    state = {
        f"{names[prefix]}.{part}": torch.from_numpy(array)
        for name, array in random_weights(network).state.items()
        for prefix, _, part in [name.rpartition(".")]
    }
    torch.save(state, tmp_path / file)
    prepared, _, info = prepare_export(member, weights=tmp_path / file)
    assert info.preprocessing.mean[0] == mean
    assert prepared.norm_epsilon == (1e-5 if source == "timm" else 1e-3)
    _, _, told = prepare_export(member, weights=tmp_path / file, normalization="imagenet")
    assert told.preprocessing.mean[0] == 0.485


@pytest.mark.parametrize("source", ["auto", *SOURCES])
def test_a_pickle_with_code_is_refused_from_every_source(tmp_path, run, source):
    (tmp_path / "w.pth").write_bytes(pickle.dumps(print, protocol=2))
    for command in (("import-weights", "w.pth"), ("export", "--phi", "0", "--weights", "w.pth")):
        result = run(*command, "--source", source)
        assert result.status == 2
        assert result.code == "checkpoint-has-code"
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "model._orig_mod."])
def test_wrapper_prefixes_are_removed_from_names(tmp_path, prefix):
    state = {f"{prefix}{name}": value for name, value in timm_model("resnet18").state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    assert recognize(load_weights(tmp_path / "w.pth")).tensors.is_complete


def test_a_source_is_only_asked_about_networks_it_has(tmp_path, run):
    """EfficientNet-PyTorch has EfficientNets; timm's names are this package's, and stay."""
    saved(timm_model("efficientnet_b0"), tmp_path / "w.pth")
    result = run("import-weights", "w.pth", "--source", "lukemelas", "--check")
    assert result.status == 0
    assert "network: --family efficientnet --member b0" in result.out


def test_a_check_also_checks_values(tmp_path, run):
    state = timm_model("resnet18").state_dict()
    state["bn1.running_var"][0] = -1
    torch.save(state, tmp_path / "w.pth")
    result = run("import-weights", "w.pth", "--check")
    assert result.status == 2
    assert "negative variances in bn1.running_var" in result.err
