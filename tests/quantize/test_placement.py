from dataclasses import replace

import onnx
import pytest
from refusals import refuses

from deploykit.data.preprocessing import Preprocessing
from deploykit.networks.export import prepare_export
from deploykit.networks.families.mobilenet_v2 import mobilenet_v2
from deploykit.networks.families.resnet import resnet
from deploykit.networks.member import choose_member
from deploykit.networks.model_info import ModelInfo
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.networks.random_weights import random_weights
from deploykit.networks.scaling import BASE
from deploykit.onnx_tools.model_io import read_model
from deploykit.quantize.placement import POLICIES, Placement, place_all_int8, place_int8

# Table 1 of arXiv:1905.11946: B0's stages 2 to 8 have 1, 2, 2, 3, 3, 4, 1 blocks. The first has a
# projection alone, the other 15 an expansion and a projection each, and the head is one more.
B0_BLOCKS = 1 + 2 + 2 + 3 + 3 + 4 + 1
B0_POINTWISE = 1 + 15 * 2 + 1
# A depthwise convolution and squeeze-excite's two in each block, and the stem.
B0_CONVOLUTIONS = B0_POINTWISE + B0_BLOCKS + 2 * B0_BLOCKS + 1
B0_RESIDUALS = B0_BLOCKS - 7  # all but a stage's first


def own_model(network, side_px: int) -> onnx.ModelProto:
    info = ModelInfo(
        family=network.family,
        phi=None,
        rule=None,
        precision="fp32",
        preprocessing=Preprocessing(side_px=side_px),
        weights="random",
    )
    return build_onnx_model(network, random_weights(network), info)


@pytest.fixture(scope="module")
def b0(random_b0) -> onnx.ModelProto:
    return read_model(random_b0.path)


@pytest.fixture(scope="module")
def placements(b0) -> dict[str, Placement]:
    return {policy: place_int8(b0, policy) for policy in POLICIES}


def weights_of(placement: Placement) -> set[str]:
    return {node.weight for node in placement.products}


def outputs_of(placement: Placement) -> list[str]:
    return [node.output for node in placement.products]


@pytest.mark.parametrize(
    ("policy", "products"),
    [
        ("pointwise", B0_POINTWISE + 1),
        ("dense", B0_POINTWISE + 1),
        ("bandwidth", B0_POINTWISE + B0_BLOCKS + 1),
        ("all-conv", B0_CONVOLUTIONS + 1),
    ],
)
def test_each_policy_puts_so_many_of_b0s_products_in_int8(placements, policy, products):
    placement = placements[policy]
    assert placement.policy == policy
    counts = {"pointwise": 33, "dense": 33, "bandwidth": 49, "all-conv": 82}
    assert len(placement.products) == products == counts[policy]
    assert len(weights_of(placement)) == products
    assert placement.products[-1].weight == "classifier.weight"
    assert placement.products[-2].weight == "conv_head.weight"


def test_pointwise_leaves_depthwise_squeeze_excite_and_stem_in_float(placements):
    weights = weights_of(placements["pointwise"])
    assert not [name for name in weights if "conv_dw" in name or ".se." in name or "stem" in name]


def test_dense_adds_convolutions_over_a_window_where_a_network_has_them():
    """ResNet-50: arXiv:1512.03385, Table 1: 16 blocks of three, 4 shortcuts, first, classifier."""
    network, weights, info = prepare_export(choose_member("resnet50", side_px=64))
    model = build_onnx_model(network, weights, info)
    counts = {policy: len(place_int8(model, policy).products) for policy in POLICIES}
    strided = 3  # shortcuts, which are no products at each place
    assert counts == {"pointwise": 2 * 16 + 1 + 1, "dense": 53, "bandwidth": 53, "all-conv": 54}
    assert counts["dense"] - counts["pointwise"] == 16 + strided
    assert place_int8(model, "dense").int8_share > 0.97


def test_bandwidth_adds_the_depthwise_convolutions_and_nothing_else(placements):
    added = weights_of(placements["bandwidth"]) - weights_of(placements["pointwise"])
    assert len(added) == B0_BLOCKS
    assert all(name.endswith("conv_dw.weight") for name in added)
    assert weights_of(placements["bandwidth"]) > weights_of(placements["pointwise"])


def test_all_conv_adds_squeeze_excite_and_the_stem(placements):
    added = weights_of(placements["all-conv"]) - weights_of(placements["bandwidth"])
    assert {name for name in added if ".se." not in name} == {"conv_stem.weight"}
    assert len(added) == 2 * B0_BLOCKS + 1


def test_every_pointwise_weight_is_a_matrix_with_its_output_channels_first(b0, placements):
    shapes = {tensor.name: tuple(tensor.dims) for tensor in b0.graph.initializer}
    assert {shapes[node.weight][2:] for node in placements["pointwise"].products} == {(1, 1), ()}
    assert {node.channel_axis for node in placements["all-conv"].products} == {0}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_nodes_come_in_the_order_of_the_graph(b0, placements, policy):
    order = [node.output[0] for node in b0.graph.node]
    positions = [order.index(output) for output in outputs_of(placements[policy])]
    assert positions == sorted(positions)


def test_convolutions_that_pad_are_not_centred_and_the_others_are(placements):
    """B0 pads in its stem and its depthwise convolutions, all of them 3x3 or 5x5."""
    fixed = {node.weight for node in placements["all-conv"].products if not node.can_absorb_offset}
    assert len(fixed) == B0_BLOCKS + 1
    assert all("conv_dw" in name or "stem" in name for name in fixed)


# arXiv:1905.11946, Table 1: expansion, kernel, channels, repeats, stride of the first block.
B0_STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


def b0_macs(side_px: int, classes: int) -> dict[str, int]:
    """Multiply-accumulates of each kind of layer, from the paper's table."""
    side_px //= 2
    macs = {"stem": side_px**2 * 9 * 3 * 32, "depthwise": 0, "squeeze": 0, "pointwise": 0}
    channels = 32
    for expansion, kernel, out_channels, repeats, first_stride in B0_STAGES:
        for repeat in range(repeats):
            inner, before = channels * expansion, side_px
            side_px //= first_stride if repeat == 0 else 1
            macs["pointwise"] += before**2 * channels * inner if expansion > 1 else 0
            macs["depthwise"] += side_px**2 * kernel**2 * inner
            macs["squeeze"] += 2 * inner * (channels // 4)
            macs["pointwise"] += side_px**2 * inner * out_channels
            channels = out_channels
    macs["pointwise"] += side_px**2 * channels * 1280 + 1280 * classes
    return macs


@pytest.mark.parametrize(
    ("policy", "kinds"),
    [
        ("pointwise", ["pointwise"]),
        ("bandwidth", ["pointwise", "depthwise"]),
        ("all-conv", ["pointwise", "depthwise", "squeeze", "stem"]),
    ],
)
def test_the_share_in_int8_is_that_of_the_papers_table(placements, policy, kinds):
    macs = b0_macs(64, 1000)
    placement = placements[policy]
    assert placement.macs == sum(macs.values())
    assert placement.int8_share == pytest.approx(sum(macs[kind] for kind in kinds) / placement.macs)


@pytest.mark.parametrize(
    ("policy", "include", "exclude", "products"),
    [
        ("pointwise", ["blocks.0.0.conv_dw"], [], 34),
        ("pointwise", ["*.conv_dw"], [], 49),
        ("pointwise", ["*"], [], 82),
        ("pointwise", ["blocks.1.*"], [], 33 + 2 * 3),  # depthwise and squeeze-excite's two of two blocks
        ("pointwise", [], ["conv_head"], 32),
        ("pointwise", [], ["classifier"], 32),  # the node's name; what it makes is called logits
        ("pointwise", [], ["*.conv_pwl", "logits"], 33 - 15 - 1),
        ("pointwise", ["*.conv_dw"], ["blocks.1.*"], 49 - 2 * 3),
        ("all-conv", [], ["*.se.*"], 82 - 32),
        ("bandwidth", ["conv_stem"], [], 50),
        ("pointwise", ["blocks.0.0.conv_pw"], [], 33),  # which is in already
    ],
)
def test_patterns_add_products_and_take_them_away(b0, policy, include, exclude, products):
    placement = place_int8(b0, policy, include=include, exclude=exclude)
    assert len(placement.products) == products
    assert placement.policy == policy


def test_exclusion_wins_over_inclusion(b0):
    placement = place_int8(b0, "pointwise", include=["*.conv_dw"], exclude=["blocks.0.0.conv_dw"])
    assert "blocks.0.0.conv_dw" not in outputs_of(placement)
    assert "blocks.1.0.conv_dw" in outputs_of(placement)


@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize("pattern", ["blocks.9.*", "Conv_head", "", "blocks.0.0.s", "conv_head.weight"])
def test_a_pattern_that_matches_nothing_is_refused_with_a_name_that_would(b0, option, pattern):
    with refuses("unknown-layer") as caught:
        place_int8(b0, "pointwise", **{option: [pattern]})
    assert pattern in caught.value.problem
    assert "conv_stem" in caught.value.fix


def test_excluding_everything_is_refused(b0):
    with refuses("nothing-to-quantize"):
        place_int8(b0, "pointwise", exclude=["*"])


@pytest.mark.parametrize("policy", ["pointwise", "all-conv"])
def test_only_bandwidth_carries_tensors_to_nodes_that_compute_in_float(placements, policy):
    assert placements[policy].dequantized_inputs == placements[policy].ties == ()


def test_b0_carries_its_residual_sums_and_squeeze_excites_inputs(b0, placements):
    placement = placements["bandwidth"]
    makers = {node.output[0]: node for node in b0.graph.node}
    kinds = [makers[each.output].op_type for each in placement.dequantized_inputs]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "Add": 2 * B0_RESIDUALS,
        "Mul": B0_BLOCKS,
        "GlobalAveragePool": B0_BLOCKS,
    }
    for each in placement.dequantized_inputs:
        assert makers[each.output].input[each.position] == each.tensor


def test_the_inputs_of_each_residual_sum_have_one_range(b0, placements):
    sums = [tuple(node.input) for node in b0.graph.node if node.op_type == "Add"]
    assert len(sums) == B0_RESIDUALS
    assert set(placements["bandwidth"].ties) == set(sums)


def test_squeeze_excites_multiplication_and_pool_read_the_same_tensor(b0, placements):
    makers = {node.output[0]: node for node in b0.graph.node}
    read = {"Mul": [], "GlobalAveragePool": []}
    for each in placements["bandwidth"].dequantized_inputs:
        if makers[each.output].op_type in read:
            read[makers[each.output].op_type].append(each.tensor)
    assert read["Mul"] == read["GlobalAveragePool"]
    assert len(set(read["Mul"])) == B0_BLOCKS


# arXiv:1801.04381, Table 2: 17 bottlenecks, the first without an expansion, ten with a residual sum.
# arXiv:1512.03385, Table 1: ResNet-18 has 20 convolutions, three of them 1x1 with stride 2 before a sum;
# ResNet-50 (v1.5) 53: of its 36 with 1x1, three have a stride of 2.
@pytest.mark.parametrize(
    ("network", "products", "residuals"),
    [
        (
            lambda side_px: mobilenet_v2(replace(BASE, side_px=side_px)),
            {"pointwise": 16 * 2 + 1 + 1 + 1, "dense": 35, "bandwidth": 35 + 17, "all-conv": 35 + 17 + 1},
            10,
        ),
        (
            lambda side_px: resnet(18, replace(BASE, side_px=side_px)),
            {"pointwise": 1, "dense": 20, "bandwidth": 20, "all-conv": 21},
            8,
        ),
        (
            lambda side_px: resnet(50, replace(BASE, side_px=side_px)),
            {"pointwise": 34, "dense": 53, "bandwidth": 53, "all-conv": 54},
            16,
        ),
    ],
    ids=["MobileNetV2", "ResNet-18", "ResNet-50"],
)
def test_other_families_are_placed_by_the_same_policies(network, products, residuals):
    model = own_model(network(side_px=32), 32)
    placements = {policy: place_int8(model, policy) for policy in POLICIES}
    assert {policy: len(each.products) for policy, each in placements.items()} == products
    bandwidth = placements["bandwidth"]
    assert len(bandwidth.ties) == residuals
    assert len(bandwidth.dequantized_inputs) == 2 * residuals  # and no squeeze-excite
    assert placements["all-conv"].int8_share == 1


def test_everything_names_what_any_policy_and_pattern_may_put_in_int8(b0, placements):
    everything = place_all_int8(b0)
    assert len(everything.products) == 82
    assert everything.dequantized_inputs == placements["bandwidth"].dequantized_inputs
    for policy in POLICIES:
        anything = place_int8(b0, policy, include=["*"])
        assert set(anything.tensors) <= set(everything.tensors)
        assert set(anything.outputs) <= set(everything.outputs)


def test_a_placement_without_a_node_keeps_all_others(placements):
    placement = placements["bandwidth"]
    rest = placement.without(["blocks.1.1.conv_pw", "blocks.1.1.add"])
    assert set(placement.outputs) - set(rest.outputs) == {"blocks.1.1.conv_pw", "blocks.1.1.add"}
    assert len(rest.products) == len(placement.products) - 1
    assert len(rest.dequantized_inputs) == len(placement.dequantized_inputs) - 2
    assert rest.macs == placement.macs, "they are the whole model's"
    (gone,) = (node for node in placement.products if node.output == "blocks.1.1.conv_pw")
    assert placement.int8_share - rest.int8_share == pytest.approx(gone.macs / placement.macs)


def test_only_and_without_are_each_others_rest(placements):
    placement = placements["bandwidth"]
    some = placement.outputs[::3]
    assert placement.only(some).outputs == some
    assert placement.without(some) == placement.only(set(placement.outputs) - set(some))


def test_the_readers_of_a_tensor_are_products_and_sums_alike(placements):
    placement = placements["bandwidth"]
    assert placement.readers("blocks.1.0.conv_pwl") == ("blocks.1.1.conv_pw", "blocks.1.1.add")
    assert placements["pointwise"].readers("blocks.1.0.conv_pwl") == ("blocks.1.1.conv_pw",)
    assert placement.readers("nothing") == ()


def test_each_tensor_and_output_is_named_once(placements):
    for placement in placements.values():
        for names in (placement.tensors, placement.outputs):
            assert len(names) == len(set(names))
    sums = {each.output for each in placements["bandwidth"].dequantized_inputs}
    assert len(placements["bandwidth"].outputs) == len(placements["bandwidth"].products) + len(sums)


def test_a_sum_can_be_excluded_by_its_own_name(b0, placements):
    placement = place_int8(b0, "bandwidth", exclude=["blocks.1.1.add"])
    assert placement == placements["bandwidth"].without(["blocks.1.1.add"])
    with refuses("unknown-layer"):
        place_int8(b0, "bandwidth", include=["blocks.1.1.add"])


def test_a_block_is_excluded_by_its_name(b0, placements):
    placement = place_int8(b0, "bandwidth", exclude=["blocks.1.1"])
    assert placement == place_int8(b0, "bandwidth", exclude=["blocks.1.1.*"])
    assert len(placement.products) < len(placements["bandwidth"].products)


def test_a_tensor_alone_is_read_by_products_and_not_tied(placements):
    placement = placements["bandwidth"]
    alone = placement.only_tensor("blocks.1.0.conv_pwl")
    assert alone.outputs == ("blocks.1.1.conv_pw",)
    assert alone.tensors == ("blocks.1.0.conv_pwl",)
    assert alone.ties == ()
    branch = placement.only_tensor("blocks.1.1.conv_pwl")  # which the sum alone reads
    assert branch.products == ()
    assert branch.tensors == ("blocks.1.1.conv_pwl",)


def test_exclusion_takes_the_sums_and_gates_of_a_block_with_it(b0, placements):
    placement = place_int8(b0, "bandwidth", exclude=["blocks.1.1.*"])
    gone = set(placements["bandwidth"].outputs) - set(placement.outputs)
    assert {"blocks.1.1.add", "blocks.1.1.conv_dw"} < gone
    assert all(name.startswith("blocks.1.1.") for name in gone)
    assert not [name for name in placement.outputs if name.startswith("blocks.1.1.")]


def test_tensors_of_a_sum_left_in_float_are_tied_no_longer(placements):
    placement = placements["bandwidth"]
    rest = placement.without(["blocks.1.1.add"])
    assert len(rest.ties) == len(placement.ties) - 1
    assert not [tie for tie in rest.ties if "blocks.1.1.conv_pwl" in tie]
