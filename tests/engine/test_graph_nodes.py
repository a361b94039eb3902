from handmade_graphs import graph_of
from onnx import helper

from deploykit.engine.audit.graph_nodes import name_nodes, product_before

SIDE_PX = 8


def node(op: str, reads: list[str], name: str, **attributes):
    return helper.make_node(op, reads, [name], name=name, **attributes)


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
    found = [product_before(each, makers) for each in nodes]
    assert found == [None, "c", "c", "c"]
