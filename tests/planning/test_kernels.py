from dataclasses import replace

import pytest

from deploykit.networks.families.efficientnet import efficientnet
from deploykit.networks.families.mobilenet_v2 import mobilenet_v2
from deploykit.networks.families.registry import find_family
from deploykit.networks.families.resnet import resnet
from deploykit.networks.scaling import BASE, scale_for
from deploykit.planning.cost_model.kernels import count_kernels, list_kernels

B0 = efficientnet(scale_for(0))


def by_name(network, **options):
    return {kernel.name: kernel for kernel in list_kernels(network, **options)}


# B0: stem; 16 blocks of depthwise, pool, two products, scale, project; 15 expansions; head, pool, classifier.
# ResNet-50: 53 convolutions, two poolings, the classifier. MobileNetV2: 52 convolutions, pool, classifier.
@pytest.mark.parametrize(
    ("network", "count"),
    [(B0, 1 + 16 * 6 + 15 + 3), (resnet(50), 53 + 2 + 1), (mobilenet_v2(), 52 + 1 + 1)],
    ids=["efficientnet_b0", "resnet50", "mobilenet_v2"],
)
def test_norms_activations_and_sums_launch_no_kernel(network, count):
    assert len(list_kernels(network)) == count


def test_an_unfused_activation_launches_a_separate_kernel():
    # SiLU follows the stem, 15 expansions, 16 depthwise convolutions, 16 squeezes and the head.
    assert len(list_kernels(B0, unfused=("silu",))) - len(list_kernels(B0)) == 1 + 15 + 16 + 16 + 1


@pytest.mark.parametrize(
    "network", [B0, resnet(18), mobilenet_v2(replace(BASE, width=1.4))], ids=lambda net: net.family
)
def test_fusion_neither_loses_nor_adds_work(network):
    assert sum(kernel.macs for kernel in list_kernels(network)) == network.macs


def test_a_residual_sum_reads_its_shortcut():
    # Stage 3 of B0, arXiv:1905.11946 Table 1: 144 -> 24 channels at 56 x 56, and the 24 added.
    project = by_name(B0)["blocks.1.1.conv_pwl"]
    assert project.read_elements == (144 + 24) * 56 * 56
    assert project.written_elements == 24 * 56 * 56


def test_squeeze_excite_scales_a_whole_feature_map():
    scale = by_name(B0)["blocks.1.1.se.scale"]
    assert scale.kind == "scale"
    assert scale.read_elements == 144 * 56 * 56 + 144
    assert scale.macs == 0


def test_each_kernel_has_its_kind():
    found = by_name(B0)
    kinds = [found[name].kind for name in ("conv_stem", "blocks.0.0.conv_dw", "conv_head", "classifier")]
    assert kinds == ["dense", "depthwise", "pointwise", "linear"]
    regnet = find_family("regnety-200mf")
    assert by_name(regnet.network(regnet.base))["s1.b1.conv2.conv"].kind == "grouped"
    assert by_name(B0, unfused=("silu",))["conv_stem.silu"].kind == "activation"


def test_channels_are_padded_in_arithmetic_and_in_memory_but_not_the_image():
    # 3 -> 64 channels, 7x7, stride 2 on 224 px; in granules of 32 the 3 count as 32.
    stem = by_name(resnet(18), channel_granule=32)["conv1"]
    assert stem.macs == 32 * 64 * 49 * 112 * 112
    assert stem.read_elements == 3 * 224 * 224
    # 24 channels count as 32.
    assert by_name(B0, channel_granule=32)["blocks.1.0.conv_pwl"].written_elements == 32 * 56 * 56


def test_counting_kernels_loses_none():
    counted = count_kernels(B0)
    assert sum(count for _, count in counted) == len(list_kernels(B0))
    assert len(counted) < len(list_kernels(B0))
