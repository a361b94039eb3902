"""Feature maps that a rewritten graph makes with channels last, and hands on so while it can."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from deploykit.onnx_tools.rewriter import GraphEdit, node_attributes, tensors_read

if TYPE_CHECKING:
    from onnx import NodeProto

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]

_ELEMENTWISE = frozenset(
    {
        "Add",
        "Clip",
        "Div",
        "Elu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mul",
        "Relu",
        "Sigmoid",
        "Sub",
        "Tanh",
    }
)


class ChannelsLast:
    """Writes nodes to an edit: elementwise ones on channels-last maps as such, others on channels first.

    Args:
        scalars: constants of one element, which have no layout.
    """

    def __init__(self, edit: GraphEdit, scalars: Iterable[str]) -> None:
        self._edit = edit
        self._without_layout = {*scalars, ""}
        self._maps: dict[str, str] = {}  # the source's tensor -> the same with channels last
        self._transposed: set[str] = set()

    def add(self, name: str, tensor: str) -> None:
        """From here on the source's tensor `name` is this one with channels last."""
        self._maps[name] = tensor

    def find(self, name: str) -> str | None:
        return self._maps.get(name)

    def keep(self, node: "NodeProto") -> None:
        """Takes over a node of the source."""
        if not self._has_no_need_of_layout(node):
            self.write_channels_first(sorted(tensors_read(node)))
            self._edit.keep(node)
            return
        attributes = node_attributes(node)
        reads = [self._maps.get(name, name) for name in node.input]
        name = node.output[0]
        self._maps[name] = self._edit.node(node.op_type, reads, f"{name}.channels_last", **attributes)

    def write_channels_first(self, names: Iterable[str]) -> None:
        """Makes those of the tensors which exist with channels last alone."""
        for name in names:
            if name in self._maps and name not in self._transposed:
                self._edit.node("Transpose", [self._maps[name]], name, replaces=True, perm=TO_FIRST)
                self._transposed.add(name)

    def _has_no_need_of_layout(self, node: "NodeProto") -> bool:
        reads = set(node.input)
        return (
            node.op_type in _ELEMENTWISE
            and node.domain in {"", "ai.onnx"}
            and bool(reads & self._maps.keys())
            and reads <= self._maps.keys() | self._without_layout
        )
