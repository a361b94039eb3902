import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.networks.architecture.builder import NetworkBuilder, round_channels
from deploykit.networks.architecture.network import Add, ChannelScale
from deploykit.networks.families.efficientnet import efficientnet
from deploykit.networks.scaling import Scale, scale_for

B0 = efficientnet(scale_for(0))


# timm's models, counted; EfficientNet paper Table 2 has the same, rounded. The last column is the
# length of timm's state dict without its batch counters.
@pytest.mark.parametrize(
    ("phi", "side_px", "parameters", "gmacs", "tensors"),
    [
        (0, 224, 5_288_548, 0.385815, 360 - 49),
        (1, 240, 7_794_184, 0.686803, 508 - 69),
        (2, 260, 9_109_994, 0.993562, 508 - 69),
        (3, 300, 12_233_232, 1.827141, 574 - 78),
        (4, 380, 19_341_616, 4.393771, 706 - 96),
        (5, 456, 30_389_784, 10.266385, 854 - 116),
        (6, 528, 43_040_704, 19.067593, 986 - 134),
        (7, 600, 66_347_960, 37.745884, 1200 - 163),
    ],
)
def test_every_member_has_the_parameters_and_macs_of_timm(phi, side_px, parameters, gmacs, tensors):
    network = efficientnet(scale_for(phi))
    assert network.input == (3, side_px, side_px)
    assert network.parameter_count == parameters
    assert network.macs / 1e9 == pytest.approx(gmacs, abs=6e-7)
    assert len(network.state_shapes) == tensors


# arXiv:1905.11946, Table 1: resolution of each stage's input, channels of its output, and layers.
@pytest.mark.parametrize(
    ("stage", "side_px", "channels", "layers"),
    [
        (0, 112, 16, 1),
        (1, 112, 24, 2),
        (2, 56, 40, 2),
        (3, 28, 80, 3),
        (4, 14, 112, 3),
        (5, 14, 192, 4),
        (6, 7, 320, 1),
    ],
)
def test_the_baseline_matches_table_1_of_the_paper(stage, side_px, channels, layers):
    convolutions = [conv for conv in B0.convolutions if conv.block.startswith(f"blocks.{stage}.")]
    assert B0.shapes[convolutions[0].inputs[0]][1:] == (side_px, side_px)
    assert convolutions[-1].output[0] == channels
    assert len({conv.block for conv in convolutions}) == layers


def test_the_baseline_has_the_names_and_shapes_of_timm():
    state = B0.state_shapes
    assert state["conv_stem.weight"] == (32, 3, 3, 3)
    assert state["bn1.running_mean"] == (32,)
    assert state["blocks.0.0.conv_dw.weight"] == (32, 1, 3, 3)
    assert state["blocks.0.0.se.conv_reduce.weight"] == (8, 32, 1, 1)
    assert state["blocks.0.0.conv_pw.weight"] == (16, 32, 1, 1)
    assert state["blocks.1.0.conv_pw.weight"] == (96, 16, 1, 1)
    assert state["blocks.1.0.se.conv_reduce.bias"] == (4,)
    assert state["blocks.6.0.conv_pwl.weight"] == (320, 1152, 1, 1)
    assert state["conv_head.weight"] == (1280, 320, 1, 1)
    assert state["classifier.weight"] == (1000, 1280)


def test_a_timm_checkpoint_has_exactly_these_tensors(shared):
    from safetensors import safe_open

    network = efficientnet(scale_for(0), num_classes=10)
    with safe_open(shared / "efficientnet_b0_cifar10_64px.safetensors", "numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no dict
    assert {
        name: shape for name, shape in shapes.items() if "num_batches" not in name
    } == network.state_shapes


def test_nine_blocks_have_a_residual_sum_and_all_sixteen_have_squeeze_excite():
    # Table 1: every repeat but a stage's first, 1 + 1 + 2 + 2 + 3.
    assert sum(isinstance(layer, Add) for layer in B0.layers) == 9
    assert sum(isinstance(layer, ChannelScale) for layer in B0.layers) == 16


def test_ten_classes_remove_990_rows_of_the_classifier():
    network = efficientnet(scale_for(0), num_classes=10)
    assert network.num_classes == 10
    assert network.parameter_count == 5_288_548 - 990 * (1280 + 1)


def test_halving_an_odd_side_rounds_up():
    network = efficientnet(Scale(width=1, depth=1, side_px=65))
    sides = {name: shape[1] for name, shape in network.shapes.items()}
    ends = (
        "conv_stem",
        "blocks.1.0.conv_dw",
        "blocks.2.0.conv_dw",
        "blocks.3.0.conv_dw",
        "blocks.5.0.conv_dw",
    )
    assert [sides[name] for name in ends] == [33, 17, 9, 5, 3]


# Channels of timm's efficientnet_b3, which is 1.2 wide, and the rule's corners by hand.
@pytest.mark.parametrize(
    ("asked", "rounded"),
    [
        (32 * 1.2, 40),
        (16 * 1.2, 24),  # 16 would be under 90 % of 19.2
        (24 * 1.2, 32),
        (112 * 1.2, 136),
        (192 * 1.2, 232),
        (1280 * 1.2, 1536),
        (32 * 1.1, 32),
        (1, 8),
        (11, 16),
        (12, 16),
    ],
)
def test_channels_round_to_the_nearest_multiple_of_eight_but_not_far_down(asked, rounded):
    assert round_channels(asked) == rounded


@settings(deadline=None)
@given(st.floats(1, 5000))
def test_rounding_removes_at_most_a_tenth_and_adds_at_most_a_step(asked):
    rounded = round_channels(asked)
    assert rounded % 8 == 0
    assert 0.9 * asked <= rounded < asked + 8


def test_macs_and_parameters_of_a_small_network_match_a_hand_count():
    net = NetworkBuilder(32)
    net.conv("stem", 8, kernel=3, stride=2, norm="bn")
    net.conv("depthwise", 8, kernel=5, groups=8)
    net.global_average_pool("pool")
    net.linear("head", 10)
    network = net.network("small")
    stem, depthwise = network.convolutions
    assert stem.output == depthwise.output == (8, 16, 16)
    # 3x3 over 3 channels for each of 8 * 16 * 16 outputs; 5x5 over one; 8 for each of 10.
    assert [layer.macs for layer in network.layers] == [27 * 2048, 25 * 2048, 0, 80]
    assert network.macs == 106_576
    # Weights, gamma and beta; weights and biases; weights and biases.
    assert network.parameter_count == (216 + 8 + 8) + (200 + 8) + (80 + 10)
    assert sum(math.prod(shape) for shape in network.state_shapes.values()) == network.parameter_count + 8 + 8


def test_convolutions_are_classified_as_pointwise_or_depthwise():
    kinds = {
        name: (conv.is_pointwise, conv.is_depthwise)
        for conv in B0.convolutions
        if (name := conv.name.removeprefix("blocks.1.0.")) in {"conv_stem", "conv_pw", "conv_dw", "conv_pwl"}
    }
    assert kinds == {
        "conv_stem": (False, False),
        "conv_pw": (True, False),
        "conv_dw": (False, True),
        "conv_pwl": (True, False),
    }
