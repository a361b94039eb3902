import numpy as np
import pytest
from handmade_graphs import graph_of, weight
from onnx import helper

from deploykit.engine.audit.work import Work, name_nodes, nearest_product, work_of

SIDE_PX = 8


def node(op: str, reads: list[str], name: str, **attributes):
    return helper.make_node(op, reads, [name], name=name, **attributes)


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        # By hand: outputs times what each sums.
        (
            node("Conv", ["x", "w"], "y", pads=[1] * 4),
            (16, 4, 3, 3),
            Work(macs=8 * 8 * 16 * 36, places=64, channels=4),
        ),
        (
            node("Conv", ["x", "w"], "y", strides=[2, 2], pads=[1] * 4),
            (16, 4, 3, 3),
            Work(macs=4 * 4 * 16 * 36, places=16, channels=4),
        ),
        (
            node("Conv", ["x", "w"], "y", group=4, pads=[1] * 4),
            (4, 1, 3, 3),
            Work(macs=8 * 8 * 4 * 9, places=64, channels=4, is_depthwise=True),
        ),
        (
            node("Conv", ["x", "w"], "y", group=2),
            (6, 2, 1, 1),
            Work(macs=8 * 8 * 6 * 2, places=64, channels=4),
        ),
        (node("MatMul", ["x", "w"], "y"), (8, 5), Work(macs=4 * 8 * 8 * 5, places=32, channels=8)),
    ],
    ids=["convolution", "with strides", "depthwise", "in groups", "matrix product at each place"],
)
@pytest.mark.parametrize("quantized", [False, True])
def test_work_of_a_product_on_a_map(layer, shape, expected, quantized):
    constants = {"w": weight(*shape)}
    nodes = [layer]
    if quantized:
        constants = {"q": np.ones(shape, np.int8), "scale": np.float32(1), "zero": np.int8(0)}
        nodes = [node("DequantizeLinear", ["q", "scale", "zero"], "w"), layer]
    model = graph_of(nodes, constants, takes={"x": (4, SIDE_PX, SIDE_PX)}, gives={"y": None})
    assert work_of(model) == {"y": expected}


def rows_of_a_map():
    """A pointwise convolution as ONNX Runtime's integers want it: one row a place, of all images."""
    return graph_of(
        [
            node("Transpose", ["x"], "last", perm=[0, 2, 3, 1]),
            node("Reshape", ["last", "shape"], "rows"),
            node("Gemm", ["rows", "w"], "y", transB=1),
        ],
        {"shape": np.array([-1, 4], np.int64), "w": weight(6, 4)},
        takes={"x": (4, SIDE_PX, SIDE_PX)},
        gives={"y": None},
    )


def test_rows_of_all_images_are_counted_as_those_of_one():
    assert work_of(rows_of_a_map()) == {"y": Work(macs=8 * 8 * 6 * 4, places=64, channels=4)}


def test_counting_leaves_the_model_as_it_was():
    model = rows_of_a_map()
    before = model.SerializeToString()
    work_of(model)
    assert model.SerializeToString() == before


def test_nodes_without_a_name_get_that_of_what_they_make():
    unnamed = helper.make_node("Relu", ["x"], ["r"])
    model = graph_of([unnamed, node("Relu", ["r"], "y")], {}, takes={"x": (4,)}, gives={"y": (4,)})
    model.graph.node[1].name = "last"
    name_nodes(model)
    assert [each.name for each in model.graph.node] == ["r", "last"]


def test_the_product_behind_an_activation_is_found_and_of_a_pool_there_is_none():
    nodes = [
        node("GlobalAveragePool", ["x"], "pool"),
        node("Conv", ["pool", "w"], "c"),
        node("Sigmoid", ["c"], "s"),
        node("Mul", ["s", "c"], "m"),
    ]
    makers = {each.output[0]: each for each in nodes}
    found = [nearest_product(each, makers) for each in nodes]
    assert found == [None, "c", "c", "c"]
