"""Choose, by named policy, which nodes compute in INT8 and which tensors are stored in it between them.

- `pointwise`: 1x1 convolutions on feature maps, and the classifier. For compilers with INT8 kernels for
  matrix products only, such as ONNX Runtime.
- `dense`: also convolutions over a window that read all channels of a feature map, except the first. For
  compilers that pad INT8 depthwise convolutions to several times their channels, such as TensorRT-RTX.
- `bandwidth`: every convolution on feature maps except the first, and the classifier. The inputs of
  residual additions and of squeeze-excite are stored in INT8 too, so that no feature map is written
  in FP16. For TensorRT, whose published INT8 gain on EfficientNet is achieved this way.
- `all-conv`: every convolution, including squeeze-excite's and the first, and the classifier.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, get_args

from deploykit.onnx_tools.products import Product
from deploykit.quantize.graph_facts import GraphFacts
from deploykit.util.errors import DeployError

if TYPE_CHECKING:
    from onnx import ModelProto

Policy = Literal["pointwise", "dense", "bandwidth", "all-conv"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
DEFAULT_POLICY: Policy = "dense"
"""Used if no compiler is named; for EfficientNets it equals `pointwise`."""

Ties = tuple[tuple[str, ...], ...]
"""Groups of tensors that must share one range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DequantizedInput:
    """A tensor that a node reads from INT8 and computes with in float.

    Attributes:
        output: the tensor that the node makes.
        position: which of the node's inputs it is.
    """

    tensor: str
    output: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The nodes and tensors of a model that are in INT8.

    Attributes:
        products: the convolutions and linear layers that compute in INT8.
        dequantized_inputs: INT8 tensors that other nodes read.
        ties: groups of tensors that must share one range.
        macs: multiply-accumulates of the whole model, for one image.
    """

    policy: Policy
    products: tuple[Product, ...]
    dequantized_inputs: tuple[DequantizedInput, ...]
    ties: Ties
    macs: int

    @property
    def tensors(self) -> tuple[str, ...]:
        """The activations that need a range, each once, in graph order."""
        names = [product.activation for product in self.products]
        names += [each.tensor for each in self.dequantized_inputs]
        return tuple(dict.fromkeys(names))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of all nodes that read INT8, each once."""
        names = [product.output for product in self.products]
        names += [each.output for each in self.dequantized_inputs]
        return tuple(dict.fromkeys(names))

    @property
    def int8_share(self) -> float:
        """The fraction of the multiply-accumulates that is in INT8."""
        return sum(product.macs for product in self.products) / self.macs

    def without(self, outputs: Iterable[str]) -> "Placement":
        """Return the placement with the nodes that make these tensors in float."""
        in_float = frozenset(outputs)
        inputs = tuple(each for each in self.dequantized_inputs if each.output not in in_float)
        tensors = {each.tensor for each in inputs}
        return replace(
            self,
            products=tuple(product for product in self.products if product.output not in in_float),
            dequantized_inputs=inputs,
            ties=tuple(tie for tie in self.ties if tensors.issuperset(tie)),
        )

    def only(self, outputs: Iterable[str]) -> "Placement":
        """Return the placement with only the nodes that make these tensors in INT8."""
        return self.without(set(self.outputs) - set(outputs))

    def only_tensor(self, tensor: str) -> "Placement":
        """Return the placement with only this tensor in INT8.

        Products read it if any do; otherwise sums and gates.
        """
        products = tuple(product for product in self.products if product.activation == tensor)
        inputs = () if products else tuple(each for each in self.dequantized_inputs if each.tensor == tensor)
        return replace(self, products=products, dequantized_inputs=inputs, ties=())

    def readers(self, tensor: str) -> tuple[str, ...]:
        """Return the outputs of the nodes that read a tensor in INT8."""
        products = (product.output for product in self.products if product.activation == tensor)
        return (*products, *(each.output for each in self.dequantized_inputs if each.tensor == tensor))


def place_int8(
    model: "ModelProto", policy: Policy, *, include: Iterable[str] = (), exclude: Iterable[str] = ()
) -> Placement:
    """Choose what a policy puts in INT8.

    Args:
        model: FP32.
        include: shell patterns of products, or of blocks such as `blocks.0`, to add whatever the policy.
        exclude: shell patterns of products, sums and gates to leave in float; these win over include.

    Raises:
        DeployError: a pattern matches nothing, or nothing is left in INT8.
    """
    facts = GraphFacts(model)
    inputs, ties = _dequantized_inputs(facts) if policy == "bandwidth" else ((), ())
    include, exclude = tuple(include), tuple(exclude)
    _require_matches(include, facts.products)
    _require_matches(exclude, facts.products, [each.output for each in inputs])
    is_chosen = _CHOOSERS[policy]
    products = tuple(
        product
        for product in facts.products
        if (is_chosen(product, facts) or _is_named(product, include)) and not _is_named(product, exclude)
    )
    if not products:
        remedy = "exclude less with --int8-exclude" if exclude else "choose another --int8-policy"
        raise DeployError(
            f"The INT8 policy {policy} selects no layer of this model.",
            code="nothing-to-quantize",
            fix=f"{remedy}, or build an FP16 engine",
        )
    placement = Placement(
        policy=policy, products=products, dequantized_inputs=inputs, ties=ties, macs=facts.total_macs
    )
    return placement.without(each.output for each in inputs if _matches(each.output, exclude))


def place_all_int8(model: "ModelProto") -> Placement:
    """Choose everything that any policy or any include pattern could put in INT8, for calibration to measure.

    Raises:
        DeployError: the model has no convolution or linear layer.
    """
    facts = GraphFacts(model)
    if not facts.products:
        raise DeployError(
            "The model has no convolution or linear layer with constant weights to compute in INT8.",
            code="nothing-to-quantize",
            fix="build an FP16 engine",
        )
    inputs, ties = _dequantized_inputs(facts)
    return Placement(
        policy="all-conv",
        products=facts.products,
        dequantized_inputs=inputs,
        ties=ties,
        macs=facts.total_macs,
    )


def _is_pointwise(product: Product, facts: GraphFacts) -> bool:
    is_linear = product.op != "Conv"
    return is_linear or (product.is_matrix_product and product.activation not in facts.pooled)


def _is_on_feature_maps(product: Product, facts: GraphFacts) -> bool:
    is_linear = product.op != "Conv"
    return is_linear or product.activation not in facts.pooled | facts.inputs


def _is_dense(product: Product, facts: GraphFacts) -> bool:
    return _is_pointwise(product, facts) or (product.groups == 1 and _is_on_feature_maps(product, facts))


_CHOOSERS: dict[Policy, Callable[[Product, GraphFacts], bool]] = {
    "pointwise": _is_pointwise,
    "dense": _is_dense,
    "bandwidth": _is_on_feature_maps,
    "all-conv": lambda product, facts: True,
}


def _dequantized_inputs(facts: GraphFacts) -> tuple[tuple[DequantizedInput, ...], Ties]:
    """Find the inputs of residual additions and of squeeze-excite.

    TensorRT fuses a residual addition if both of its inputs share one scale, so these are tied.
    """
    inputs: list[DequantizedInput] = []
    ties: list[tuple[str, ...]] = []
    for node in facts.model.graph.node:
        output = node.output[0]
        if facts.is_residual(node):
            ties.append(tuple(node.input))
            inputs += [
                DequantizedInput(tensor=name, output=output, position=position)
                for position, name in enumerate(node.input)
            ]
        elif (gated := facts.gated_input(node)) is not None:
            name = node.input[gated]
            inputs.append(DequantizedInput(tensor=name, output=output, position=gated))
            inputs += [
                DequantizedInput(tensor=name, output=pool.output[0], position=0)
                for pool in facts.pools_of(name)
            ]
    return tuple(inputs), tuple(ties)


def _require_matches(
    patterns: Iterable[str], products: Iterable[Product], others: Iterable[str] = ()
) -> None:
    for pattern in patterns:
        named = (_is_named(product, (pattern,)) for product in products)
        if not any(named) and not any(_matches(name, (pattern,)) for name in others):
            example = next((product.output for product in products), "blocks.0.*")
            raise DeployError(
                f"No convolution or linear layer matches {pattern}.",
                code="unknown-layer",
                fix=f"give the name of a layer or a pattern of names, such as {example}",
            )


def _is_named(product: Product, patterns: tuple[str, ...]) -> bool:
    return _matches(product.output, patterns) or _matches(product.node, patterns)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a pattern matches the name, or a block that contains it."""
    return any(fnmatchcase(name, each) for pattern in patterns for each in (pattern, f"{pattern}[./]*"))
