"""Match the nodes in a compiler's log with the products of the graph that it was given."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deploykit.onnx_tools.products import PRODUCT_OPS, Product, find_products

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_QDQ_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def name_nodes(model: "ModelProto") -> None:
    """Name each unnamed node after its first output, in place, so that a compiler's log can name it."""
    for node in model.graph.node:
        node.name = node.name or node.output[0]


def products_by_node(model: "ModelProto") -> dict[str, Product]:
    """Return the graph's products by the names of their nodes, with shapes for one image."""
    return {product.node: product for product in find_products(model)}


def count_int8_products(model: "ModelProto", *, matrix_products_only: bool) -> int:
    """Count the products that multiply INT8 by INT8.

    Args:
        matrix_products_only: count only matrix products and the convolutions that are equal to one.
    """
    return sum(
        product.is_int8 and (product.is_matrix_product or not matrix_products_only)
        for product in find_products(model)
    )


def qdq_node_names(model: "ModelProto") -> frozenset[str]:
    """Return the names of the QuantizeLinear and DequantizeLinear nodes."""
    return frozenset(node.name for node in model.graph.node if node.op_type in _QDQ_OPS)


def product_before(node: "NodeProto", producers: Mapping[str, "NodeProto"]) -> str | None:
    """Return the name of the product whose result a node adds to or applies a function to, or None.

    Args:
        producers: the node that makes each tensor.
    """
    while node.op_type not in PRODUCT_OPS:
        if not node.input or node.input[0] not in producers:
            return None
        node = producers[node.input[0]]
    return node.name
