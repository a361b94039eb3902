"""Which nodes compute in INT8, and which tensors travel in it between them, by named policy.

- `pointwise`: 1x1 convolutions on feature maps, and the classifier. For compilers that have integers for
  matrix products alone, as ONNX Runtime.
- `dense`: those over a window too, where they read all channels of a feature map, but the first. For
  compilers that pad INT8 depthwise convolutions to several times their channels, as TensorRT-RTX does.
- `bandwidth`: every convolution on feature maps but the first, and the classifier; the inputs of
  residual additions and of squeeze-excite travel in INT8 too, so that no feature map is written
  in FP16. For TensorRT, whose published INT8 gain on EfficientNet is had this way.
- `all-conv`: every convolution, squeeze-excite's and the first included, and the classifier.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, get_args

from deploykit.onnx_tools.rewriter import attributes_of, is_matrix_product
from deploykit.quantize.graph_facts import GraphFacts
from deploykit.util.errors import DeployError

if TYPE_CHECKING:
    from onnx import ModelProto

Policy = Literal["pointwise", "dense", "bandwidth", "all-conv"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
DEFAULT_POLICY: Policy = "dense"
"""Where no compiler is named: of EfficientNets the same as `pointwise`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A convolution or linear layer that computes in INT8.

    Attributes:
        output: the tensor it makes, which names it: nodes of models from elsewhere have no names.
        node: the node's name, maybe empty, which patterns match too.
        activation: the tensor it reads.
        weight: its weight, an initializer.
        channel_axis: the weight's axis of output channels.
        centrable: a constant taken from all its input can go into its bias instead: it pads with no
            zeros, and its bias is a constant or not there.
        is_matrix_product: it is a linear layer, or a convolution that is one at each place.
        groups: of a convolution; 1 for a linear layer.
        macs: multiply-accumulates an image.
    """

    output: str
    node: str
    activation: str
    weight: str
    channel_axis: int
    centrable: bool
    is_matrix_product: bool
    groups: int
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A tensor that one node reads from INT8 and computes with in float.

    Attributes:
        output: the tensor that node makes.
        position: among the node's inputs.
    """

    tensor: str
    output: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where INT8 is.

    Attributes:
        ties: groups of tensors that must have one range.
        macs: the whole model's multiply-accumulates an image.
    """

    policy: Policy
    products: tuple[Product, ...]
    carried: tuple[Carried, ...]
    ties: tuple[tuple[str, ...], ...]
    macs: int

    @property
    def tensors(self) -> tuple[str, ...]:
        """Activations with a range, each once, in the order they are met."""
        names = [node.activation for node in self.products] + [each.tensor for each in self.carried]
        return tuple(dict.fromkeys(names))

    @property
    def int8_share(self) -> float:
        """INT8's part of the multiply-accumulates."""
        return sum(node.macs for node in self.products) / self.macs

    def without(self, outputs: Iterable[str]) -> "Placement":
        """The placement with the nodes that make these tensors left in float."""
        left_out = frozenset(outputs)
        carried = tuple(each for each in self.carried if each.output not in left_out)
        still_carried = {each.tensor for each in carried}
        return replace(
            self,
            products=tuple(node for node in self.products if node.output not in left_out),
            carried=carried,
            ties=tuple(tie for tie in self.ties if still_carried.issuperset(tie)),
        )

    def only(self, outputs: Iterable[str]) -> "Placement":
        """The placement with no other nodes in INT8 than those that make these tensors."""
        return self.without(set(self.outputs) - set(outputs))

    def reading(self, tensor: str) -> "Placement":
        """That tensor alone in INT8: for products, or where none reads it, for sums and gates."""
        products = tuple(node for node in self.products if node.activation == tensor)
        carried = () if products else tuple(each for each in self.carried if each.tensor == tensor)
        return replace(self, products=products, carried=carried, ties=())

    def readers(self, tensor: str) -> tuple[str, ...]:
        """Outputs of the nodes that read it in INT8."""
        products = (node.output for node in self.products if node.activation == tensor)
        return (*products, *(each.output for each in self.carried if each.tensor == tensor))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Of every node that reads INT8."""
        names = [node.output for node in self.products] + [each.output for each in self.carried]
        return tuple(dict.fromkeys(names))


def place(
    model: "ModelProto", policy: Policy, *, include: Iterable[str] = (), exclude: Iterable[str] = ()
) -> Placement:
    """What a policy puts in INT8, in graph order.

    Args:
        model: FP32.
        include: shell patterns of products to add, or of blocks of them, whatever the policy: `blocks.0`.
        exclude: shell patterns of products to leave in float, and of sums and gates that would read INT8;
            they win over include.

    Raises:
        DeployError: a pattern matches nothing, or nothing is left.
    """
    facts = GraphFacts(model)
    products = tuple(_products(facts))
    carried, ties = _carried(facts) if policy == "bandwidth" else ((), ())
    include, exclude = tuple(include), tuple(exclude)
    _require_matches(include, products)
    _require_matches(exclude, products, [each.output for each in carried])
    wanted = _CHOOSERS[policy]
    chosen = tuple(
        node
        for node in products
        if (wanted(node, facts) or _is_called(node, include)) and not _is_called(node, exclude)
    )
    if not chosen:
        less = "leave less out with --int8-exclude" if exclude else "take another --int8-policy"
        raise DeployError(
            f"Policy {policy} puts nothing of this model in INT8.",
            code="nothing-to-quantize",
            fix=f"{less}, or build it as FP16",
        )
    placement = Placement(policy=policy, products=chosen, carried=carried, ties=ties, macs=facts.total_macs)
    return placement.without(each.output for each in carried if _matches(each.output, exclude))


def place_everything(model: "ModelProto") -> Placement:
    """Whatever any policy puts in INT8, or a user may include: what calibration measures.

    Raises:
        DeployError: the model has no convolution or linear layer.
    """
    facts = GraphFacts(model)
    products = tuple(_products(facts))
    if not products:
        raise DeployError(
            "The model has no convolution or linear layer with weights of its own.",
            code="nothing-to-quantize",
            fix="build it as FP16",
        )
    carried, ties = _carried(facts)
    return Placement(policy="all-conv", products=products, carried=carried, ties=ties, macs=facts.total_macs)


def _products(facts: GraphFacts) -> Iterable[Product]:
    """Every convolution and linear layer whose weight is constant, and which INT8 could compute."""
    for node in facts.products():
        attributes, is_convolution = attributes_of(node), node.op_type == "Conv"
        transposed = not is_convolution and not attributes.get("transB")
        yield Product(
            output=node.output[0],
            node=node.name,
            activation=node.input[0],
            weight=node.input[1],
            channel_axis=1 if transposed else 0,
            centrable=facts.has_free_bias(node) and not facts.pads(node),
            is_matrix_product=not is_convolution
            or is_matrix_product(attributes, facts.weights[node.input[1]][2:]),
            groups=attributes.get("group", 1),
            macs=facts.macs(node),
        )


def _is_pointwise(node: Product, facts: GraphFacts) -> bool:
    linear = len(facts.weights[node.weight]) == 2
    return linear or (node.is_matrix_product and node.activation not in facts.pooled)


def _is_on_feature_maps(node: Product, facts: GraphFacts) -> bool:
    linear = len(facts.weights[node.weight]) == 2
    return linear or node.activation not in facts.pooled | facts.inputs


def _is_dense(node: Product, facts: GraphFacts) -> bool:
    return _is_pointwise(node, facts) or (node.groups == 1 and _is_on_feature_maps(node, facts))


_CHOOSERS: dict[Policy, Callable[[Product, GraphFacts], bool]] = {
    "pointwise": _is_pointwise,
    "dense": _is_dense,
    "bandwidth": _is_on_feature_maps,
    "all-conv": lambda node, facts: True,
}


def _carried(facts: GraphFacts) -> tuple[tuple[Carried, ...], tuple[tuple[str, ...], ...]]:
    """Residual additions, which TensorRT fuses where both inputs have one scale; squeeze-excite's input."""
    carried: list[Carried] = []
    ties: list[tuple[str, ...]] = []
    for node in facts.model.graph.node:
        output = node.output[0]
        if facts.is_residual(node):
            ties.append(tuple(node.input))
            carried += [
                Carried(tensor=name, output=output, position=at) for at, name in enumerate(node.input)
            ]
        elif (gated := facts.gated_input(node)) is not None:
            name = node.input[gated]
            carried.append(Carried(tensor=name, output=output, position=gated))
            carried += [
                Carried(tensor=name, output=pool.output[0], position=0) for pool in facts.pools_of(name)
            ]
    return tuple(carried), tuple(ties)


def _require_matches(
    patterns: Iterable[str], products: Iterable[Product], others: Iterable[str] = ()
) -> None:
    for pattern in patterns:
        called = (_is_called(node, (pattern,)) for node in products)
        if not any(called) and not any(_matches(name, (pattern,)) for name in others):
            example = next((node.output for node in products), "blocks.0.*")
            raise DeployError(
                f"No convolution or linear layer is called {pattern}.",
                code="unknown-layer",
                fix=f"give a name or a pattern of names, such as {example}",
            )


def _is_called(node: Product, patterns: tuple[str, ...]) -> bool:
    return _matches(node.output, patterns) or _matches(node.node, patterns)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern is of the name, or of a block that it is in."""
    return any(fnmatchcase(name, each) for pattern in patterns for each in (pattern, f"{pattern}[./]*"))
