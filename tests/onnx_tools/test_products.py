import numpy as np
import pytest
from handmade_graphs import graph_of, weight
from onnx import helper

from deploykit.onnx_tools.products import Product, find_products

SIDE_PX = 8
MATRIX, KERNEL = weight(4, 4), weight(4, 4, 1, 1)


def node_of(op: str, *reads: str, **attributes):
    return helper.make_node(op, list(reads), ["y"], **attributes)


def model_of(nodes, constants=None):
    return graph_of(nodes, constants or {}, takes={"x": (4, SIDE_PX, SIDE_PX)}, gives={"y": None})


def product_of(node, constants, *before) -> Product:
    (product,) = find_products(model_of([*before, node], constants))
    return product


def quantizable(node, constants) -> list[str]:
    return [each.output for each in find_products(model_of([node], constants)) if each.is_quantizable]


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (node_of("Conv", "x", "w"), {"w": KERNEL}),
        (node_of("Conv", "x", "w", "b", group=2), {"w": weight(4, 2, 3, 3), "b": weight(4)}),
        (node_of("Conv", "x", "w", ""), {"w": KERNEL}),
        (node_of("Gemm", "x", "w"), {"w": MATRIX}),
        (node_of("Gemm", "x", "w", "b", transB=1, alpha=1.0, beta=1.0), {"w": MATRIX, "b": weight(4)}),
        (node_of("Gemm", "x", "w", "b"), {"w": MATRIX, "b": weight(1, 4)}),
        (node_of("MatMul", "x", "w"), {"w": MATRIX}),
    ],
    ids=["convolution", "groups and bias", "bias left out", "Gemm", "transposed", "row as bias", "MatMul"],
)
def test_a_product_with_a_constant_weight_is_quantizable(node, constants):
    assert quantizable(node, constants) == ["y"]


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (node_of("Conv", "x", "x"), {}),
        (node_of("MatMul", "x", "x"), {}),
        (node_of("MatMul", "w", "x"), {"w": MATRIX}),
        (node_of("Conv", "x", "w"), {"w": weight(4, 4, 3)}),
        (node_of("MatMul", "x", "w"), {"w": weight(4)}),
        (node_of("Gemm", "x", "w", alpha=0.5), {"w": MATRIX}),
        (node_of("Gemm", "x", "w", "b", beta=2.0), {"w": MATRIX, "b": weight(4)}),
        (node_of("Gemm", "x", "w", "b"), {"w": MATRIX, "b": weight(2, 4)}),
        (node_of("Gemm", "x", "w", "x"), {"w": MATRIX}),
        (node_of("Gemm", "x", "w", transA=1), {"w": MATRIX}),
        (node_of("ConvTranspose", "x", "w"), {"w": KERNEL}),
        (node_of("Relu", "x"), {}),
    ],
    ids=[
        "weight computed",
        "product of activations",
        "constant first",
        "one-dimensional convolution",
        "vector",
        "alpha",
        "beta",
        "bias differs by row",
        "bias computed",
        "transposed activation",
        "transposed convolution",
        "no product",
    ],
)
def test_nothing_else_is_quantizable(node, constants):
    assert quantizable(node, constants) == []


@pytest.mark.parametrize(
    ("attributes", "is_padded"),
    [
        ({}, False),
        ({"pads": [0, 0, 0, 0]}, False),
        ({"pads": [1, 1, 1, 1]}, True),
        ({"pads": [0, 0, 1, 1]}, True),
        ({"auto_pad": "NOTSET"}, False),
        ({"auto_pad": "SAME_UPPER"}, True),
        ({"auto_pad": "SAME_LOWER"}, True),
    ],
    ids=str,
)
def test_a_convolution_that_surrounds_its_input_with_zeros_is_padded(attributes, is_padded):
    product = product_of(node_of("Conv", "x", "w", **attributes), {"w": weight(4, 4, 3, 3)})
    assert product.is_padded is is_padded
    assert product.can_absorb_offset is not is_padded


@pytest.mark.parametrize(
    ("node", "constants", "can"),
    [
        (node_of("Conv", "x", "w"), {"w": KERNEL}, True),
        (node_of("Conv", "x", "w", "b"), {"w": KERNEL, "b": weight(4)}, True),
        (node_of("Conv", "x", "w", "x"), {"w": KERNEL}, False),
        (node_of("Gemm", "x", "w"), {"w": MATRIX}, True),
        (node_of("Gemm", "x", "w", "b"), {"w": MATRIX, "b": weight(4)}, True),
        (node_of("Gemm", "x", "w", "b"), {"w": MATRIX, "b": weight(1, 4)}, False),
        (node_of("Gemm", "x", "w", "b"), {"w": MATRIX, "b": weight(2, 4)}, False),
        (node_of("MatMul", "x", "w"), {"w": MATRIX}, False),
    ],
    ids=["no bias", "bias", "computed bias", "Gemm without", "Gemm with", "a row", "a matrix", "MatMul"],
)
def test_a_bias_absorbs_an_offset_if_it_is_absent_or_one_constant_a_channel(node, constants, can):
    assert product_of(node, constants).can_absorb_offset is can


@pytest.mark.parametrize(
    ("attributes", "shape", "is_matrix_product"),
    [
        ({}, (6, 4, 1, 1), True),
        ({"auto_pad": "NOTSET", "strides": [1, 1]}, (6, 4, 1, 1), True),
        ({"strides": [2, 2]}, (6, 4, 1, 1), False),
        ({"pads": [1, 1, 1, 1]}, (6, 4, 1, 1), False),
        ({"auto_pad": "SAME_UPPER"}, (6, 4, 1, 1), False),
        ({"group": 2}, (6, 2, 1, 1), False),
        ({}, (6, 4, 3, 3), False),
    ],
    ids=["1x1", "defaults spelled out", "strided", "padded", "auto_pad", "groups", "3x3"],
)
def test_a_plain_1x1_convolution_is_a_matrix_product(attributes, shape, is_matrix_product):
    product = product_of(node_of("Conv", "x", "w", **attributes), {"w": weight(*shape)})
    assert product.is_matrix_product is is_matrix_product


@pytest.mark.parametrize(
    ("node", "shape", "counts", "is_depthwise"),
    [
        # By hand: outputs times what each sums.
        (node_of("Conv", "x", "w"), (6, 4, 1, 1), (8 * 8 * 4 * 6, 64, 4), False),
        (node_of("Conv", "x", "w", pads=[1] * 4), (16, 4, 3, 3), (8 * 8 * 16 * 36, 64, 4), False),
        # Stride 2, 3x3, no padding: 3 x 3 pixels.
        (node_of("Conv", "x", "w", strides=[2, 2]), (6, 4, 3, 3), (3 * 3 * 9 * 4 * 6, 9, 4), False),
        (node_of("Conv", "x", "w", group=4, pads=[1] * 4), (4, 1, 3, 3), (8 * 8 * 9 * 4, 64, 4), True),
        (node_of("Conv", "x", "w", group=2), (6, 2, 1, 1), (8 * 8 * 6 * 2, 64, 4), False),
        (node_of("Conv", "x", "w", group=2, auto_pad="SAME_UPPER"), (4, 2, 5, 5), (12800, 64, 4), False),
        (node_of("MatMul", "x", "w"), (8, 5), (4 * 8 * 8 * 5, 32, 8), False),
    ],
    ids=["pointwise", "3x3", "strided", "depthwise", "in groups", "grouped 5x5", "matrix product of rows"],
)
@pytest.mark.parametrize("quantized", [False, True])
def test_the_work_of_a_product_is_counted_as_by_hand(node, shape, counts, is_depthwise, quantized):
    constants, before = {"w": weight(*shape)}, []
    if quantized:
        constants = {"q": np.ones(shape, np.int8), "scale": np.float32(1), "zero": np.int8(0)}
        before = [helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"])]
    product = product_of(node, constants, *before)
    assert (product.macs, product.positions, product.input_channels) == counts
    assert product.is_depthwise is is_depthwise


@pytest.mark.parametrize(("op", "options"), [("Gemm", {"transB": 0}), ("Gemm", {}), ("MatMul", {})])
def test_a_linear_layer_uses_each_weight_once(op, options):
    flatten = helper.make_node("Flatten", ["x"], ["f"])
    assert product_of(node_of(op, "f", "w", **options), {"w": weight(256, 10)}, flatten).macs == 2560


def rows_of_a_map():
    """A pointwise convolution as ONNX Runtime's integers want it: one row per pixel of all images."""
    return model_of(
        [
            helper.make_node("Transpose", ["x"], ["last"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", ["last", "shape"], ["rows"]),
            helper.make_node("Gemm", ["rows", "w"], ["y"], transB=1),
        ],
        {"shape": np.array([-1, 4], np.int64), "w": weight(6, 4)},
    )


def test_rows_of_many_images_are_counted_for_one_image():
    (product,) = find_products(rows_of_a_map())
    assert (product.macs, product.positions, product.input_channels) == (8 * 8 * 6 * 4, 64, 4)
    (product,) = find_products(rows_of_a_map(), batch=None)
    assert product.output_shape == (0, 6)


def test_finding_products_leaves_the_model_as_it_was():
    model = rows_of_a_map()
    before = model.SerializeToString()
    find_products(model)
    assert model.SerializeToString() == before


def pair(name: str, source: str, *, constant: bool = False) -> list:
    reads = [f"{name}.scale", f"{name}.zero"]
    nodes = [] if constant else [helper.make_node("QuantizeLinear", [source, *reads], [f"{name}.q"])]
    dequantize = helper.make_node("DequantizeLinear", [source if constant else f"{name}.q", *reads], [name])
    return [*nodes, dequantize]


def test_a_product_between_qdq_pairs_names_what_is_behind_them():
    scales = {f"{name}.{part}": kind for name in "aw" for part, kind in QDQ_CONSTANTS.items()}
    constants = {"v": np.ones((4, 4, 1, 1), np.int8), **scales}
    product = product_of(
        node_of("Conv", "a", "w"), constants, *pair("a", "x"), *pair("w", "v", constant=True)
    )
    assert product.is_int8
    assert not product.is_quantizable
    assert (product.activation, product.quantized_tensor, product.activation_scale) == ("a", "x", "a.scale")
    assert (product.weight, product.weight_scale) == ("v", "w.scale")


QDQ_CONSTANTS = {"scale": np.float32(1), "zero": np.int8(0)}


def test_a_product_with_only_one_side_quantized_is_not_int8():
    scales = {f"a.{part}": kind for part, kind in QDQ_CONSTANTS.items()}
    activation = product_of(node_of("Conv", "a", "w"), {"w": KERNEL, **scales}, *pair("a", "x"))
    assert not activation.is_int8
    assert activation.is_quantizable
    constants = {"v": np.ones((4, 4, 1, 1), np.int8), **scales}
    weight_only = product_of(node_of("Conv", "x", "a"), constants, *pair("a", "v", constant=True))
    assert not weight_only.is_int8
    assert not weight_only.is_quantizable
