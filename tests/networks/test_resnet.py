from dataclasses import replace

import pytest
from refusals import refuses

from deploykit.networks.families.resnet import resnet
from deploykit.networks.scaling import BASE


# torchvision's model pages: parameters, and GFLOPS, which are multiply-accumulates there.
@pytest.mark.parametrize(
    ("depth", "parameters", "gmacs"),
    [
        (18, 11_689_512, 1.81),
        (34, 21_797_672, 3.66),
        (50, 25_557_032, 4.09),
        (101, 44_549_160, 7.80),
        (152, 60_192_808, 11.51),
    ],
)
def test_parameters_and_macs_are_the_published_ones(depth, parameters, gmacs):
    network = resnet(depth)
    assert network.parameter_count == parameters
    assert network.macs / 1e9 == pytest.approx(gmacs, abs=0.006)


def test_a_resnet50_checkpoint_has_the_tensors_of_timm():
    # 320 in timm's and torchvision's state dict, 53 of them batch counters.
    state = resnet(50).state_shapes
    assert len(state) == 320 - 53
    assert state["conv1.weight"] == (64, 3, 7, 7)
    assert state["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert state["layer1.0.downsample.1.running_var"] == (256,)
    assert state["layer4.2.conv3.weight"] == (2048, 512, 1, 1)
    assert state["fc.weight"] == (1000, 2048)


def test_the_first_stage_of_a_shallow_resnet_needs_no_downsample():
    names = resnet(18).parameters
    assert "layer1.0.downsample.0.weight" not in names
    assert "layer2.0.downsample.0.weight" in names


def test_a_bottleneck_strides_in_its_3x3_as_v1_5_does():
    strides = {conv.name: conv.stride for conv in resnet(50).convolutions}
    assert strides["layer2.0.conv1"] == 1
    assert strides["layer2.0.conv2"] == 2


def test_the_last_feature_map_is_a_32nd_of_the_input():
    assert resnet(18, replace(BASE, side_px=256)).shapes["layer4.1.add"] == (512, 8, 8)


def test_an_unpublished_depth_is_refused_with_a_list_of_depths():
    with refuses("unknown-member") as caught:
        resnet(20)
    assert "18, 34, 50, 101, 152" in caught.value.fix


def test_depth_multiplies_blocks_and_width_multiplies_channels():
    deep, wide = resnet(18, replace(BASE, depth=2.0)), resnet(18, replace(BASE, width=2.0))
    assert sum(layer.name.endswith(".add") for layer in deep.layers) == 2 * 8
    assert wide.state_shapes["layer1.0.conv1.weight"] == (128, 128, 3, 3)
    assert wide.state_shapes["fc.weight"] == (1000, 1024)
    # Four times the work, but for the stem's three inputs and the classifier.
    assert wide.macs / resnet(18).macs == pytest.approx(4, rel=0.05)
