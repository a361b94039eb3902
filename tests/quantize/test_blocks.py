import pytest

from deploykit.networks.families.efficientnet import efficientnet
from deploykit.networks.scaling import scale_for
from deploykit.quantize.blocks import block_name, group_by_block


@pytest.mark.parametrize(
    ("name", "block"),
    [
        # This package's and timm's.
        ("blocks.1.0.conv_pw", "blocks.1.0"),
        ("blocks.1.0.se.conv_reduce", "blocks.1.0"),
        ("blocks.10.12.conv_dw", "blocks.10.12"),
        ("blocks.1.1.add", "blocks.1.1"),
        ("blocks.0.0.conv_dw.silu", "blocks.0.0"),
        # ResNet's.
        ("layer1.0.conv1", "layer1.0"),
        ("layer4.11.bn3", "layer4.11"),
        ("layer2.0.add.relu", "layer2.0"),
        ("layer2.0.downsample.0", "layer2.0"),
        # torchvision's.
        ("features.3.conv", "features.3"),
        ("features.3.conv.0.0", "features.3.conv.0"),
        # torch.onnx's, of torchvision's.
        ("/features/features.3/conv/conv.0/Conv_output_0", "/features/features.3/conv/conv.0"),
        ("/classifier/classifier.1/Gemm_output_0", "/classifier/classifier.1"),
        ("/features/features.3/Add_output_0", "/features/features.3"),
        # torch.onnx's, of timm's.
        ("/blocks/blocks.1/blocks.1.0/conv_pw/Conv_output_0", "/blocks/blocks.1/blocks.1.0"),
        ("/blocks/blocks.1/blocks.1.0/se/conv_reduce/Conv_output_0", "/blocks/blocks.1/blocks.1.0"),
        ("/layer1/layer1.0/conv1/Conv_output_0", "/layer1/layer1.0"),
    ],
)
def test_a_layer_is_in_the_block_that_its_name_counts_last(name, block):
    assert block_name(name) == block


@pytest.mark.parametrize(
    "name",
    [
        "conv_stem",
        "conv_head",
        "logits",
        "conv1",
        "fc",
        "495",
        "",
        "/conv1/Conv_output_0",
        "layer1",
        "a.b2.c",
    ],
)
def test_a_layer_whose_name_counts_nothing_is_a_block_by_itself(name):
    assert block_name(name) == name


def test_the_layers_of_a_block_stay_together_and_in_order():
    names = ["conv_stem", "blocks.0.0.conv_pw", "blocks.1.0.conv_pw", "blocks.0.0.conv_dw", "logits"]
    assert group_by_block(names) == {
        "conv_stem": ("conv_stem",),
        "blocks.0.0": ("blocks.0.0.conv_pw", "blocks.0.0.conv_dw"),
        "blocks.1.0": ("blocks.1.0.conv_pw",),
        "logits": ("logits",),
    }
    assert list(group_by_block(names)) == ["conv_stem", "blocks.0.0", "blocks.1.0", "logits"]
    assert group_by_block([]) == {}


def test_each_of_b0s_convolutions_is_in_the_block_the_network_has_it_in():
    network = efficientnet(scale_for(0))
    inside = [conv for conv in network.convolutions if conv.name.startswith("blocks.")]
    assert len(inside) == 79  # 81 without the stem and the head's
    assert {conv.name: block_name(conv.name) for conv in inside} == {conv.name: conv.block for conv in inside}
    assert len(group_by_block(conv.name for conv in inside)) == 16  # arXiv:1905.11946, Table 1
