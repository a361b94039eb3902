"""uint8 images straight into a model: its normalization as the first nodes of the graph.

Everything that looks into a model sees it without them: read_model takes them off, and whoever writes
a model or compiles it puts them on again, where its metadata say so.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit.data.preprocessing import Preprocessing
from deploykit.onnx_tools.rewriter import subgraphs_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_PREFIX = "preprocess."
_PREPARED = f"{_PREFIX}images"
_NODES = frozenset(f"{_PREFIX}{at}" for at in range(5))
_CONSTANTS = frozenset(f"{_PREFIX}{name}" for name in ("white", "mean", "std"))


def takes_uint8(model: "ModelProto") -> bool:
    """Whether the nodes are there; others may have names like theirs."""
    from onnx import TensorProto

    is_uint8 = model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    return is_uint8 and any(_PREPARED in node.output for node in model.graph.node)


def with_uint8_input(model: "ModelProto", preprocessing: Preprocessing) -> "ModelProto":
    """A copy that takes (n, height, width, 3) uint8 where the model takes (n, 3, height, width) floats.

    The same operations in the same order as Preprocessing.normalize, so that the numbers are the same too.
    """
    from onnx import TensorProto, helper, numpy_helper

    copy = type(model)()
    copy.CopyFrom(model)
    graph = copy.graph
    taken = graph.input[0]
    batch, _, height, width = taken.type.tensor_type.shape.dim
    _rename(copy, taken.name, _PREPARED)
    constants = {
        f"{_PREFIX}white": np.array(255, np.float32),
        f"{_PREFIX}mean": np.array(preprocessing.mean, np.float32)[:, None, None],
        f"{_PREFIX}std": np.array(preprocessing.std, np.float32)[:, None, None],
    }
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Cast", [], {"to": TensorProto.FLOAT}),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ("Div", [f"{_PREFIX}white"], {}),
        ("Sub", [f"{_PREFIX}mean"], {}),
        ("Div", [f"{_PREFIX}std"], {}),
    ]
    nodes, name = [], taken.name
    for at, (operator, others, attributes) in enumerate(steps):
        made = _PREPARED if at == len(steps) - 1 else f"{_PREFIX}{at}"
        nodes.append(helper.make_node(operator, [name, *others], [made], name=f"{_PREFIX}{at}", **attributes))
        name = made
    before = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *before])
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    shape = [batch.dim_param or batch.dim_value, *(_size(side) for side in (height, width)), 3]
    taken.CopyFrom(helper.make_tensor_value_info(taken.name, TensorProto.UINT8, shape))
    return copy


def without_uint8_input(model: "ModelProto") -> "ModelProto":
    """A copy as it was before with_uint8_input; the model itself where nothing was put on it."""
    from onnx import TensorProto, helper

    if not takes_uint8(model):
        return model
    copy = type(model)()
    copy.CopyFrom(model)
    graph = copy.graph
    kept = [node for node in graph.node if node.name not in _NODES]
    constants = [tensor for tensor in graph.initializer if tensor.name not in _CONSTANTS]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)
    taken = graph.input[0]
    batch, height, width, _ = taken.type.tensor_type.shape.dim
    shape = [batch.dim_param or batch.dim_value, 3, *(_size(side) for side in (height, width))]
    taken.CopyFrom(helper.make_tensor_value_info(taken.name, TensorProto.FLOAT, shape))
    _rename(copy, _PREPARED, taken.name)
    return copy


def _size(dim: "object") -> int | str:
    return dim.dim_param or dim.dim_value  # type: ignore[attr-defined, no-any-return]  # onnx has no types


def _rename(model: "ModelProto", before: str, after: str) -> None:
    _rename_in(model.graph.node, before, after)


def _rename_in(nodes: "Iterable[NodeProto]", before: str, after: str) -> None:
    for node in nodes:
        for position, name in enumerate(node.input):
            if name == before:
                node.input[position] = after
        for subgraph in subgraphs_of(node):
            _rename_in(subgraph.node, before, after)
