"""Read compiled layers from TensorRT: from a builder's log, which needs no GPU, or from an engine.

With detailed profiling, TensorRT-RTX logs each compiled layer at level VERBOSE as

    Name: ..., LayerType: correlation, Inputs: [ { ..., Dimensions: [...], Datatype: Int8, ...} ],
    Constants: [...], Outputs: [...], TacticName: ..., StreamId: 0, Metadata: [ONNX Layer: ...][...]

where `correlation` is a convolution, `gemm` a matrix product, `runtime_fusion` one of these fused with
the following operations, and `kgen` a generated kernel of elementwise operations, listed in its name.

The engine inspector returns JSON: objects with Name, LayerType, Inputs with Dimensions and a type, and the
same Metadata. TensorRT 10 writes the type in words under Format/Datatype ("Thirty-two wide channel
vectorized row major Int8 format"); TensorRT 11 uses separate keys (NVIDIA's migration guide).
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from deploykit.engine.audit.audit import Audit, CompiledLayer, Traffic
from deploykit.engine.audit.graph_nodes import products_by_node, qdq_node_names
from deploykit.engine.audit.traffic import LayerTensor, layer_traffic
from deploykit.onnx_tools.products import Product
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

LAYER_LINE = re.compile(
    r"^Name: (?P<name>.+?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants:"
)
_FIRST_TENSOR = re.compile(r"Dimensions: \[([-0-9,]*)\].*?Datatype: (\w+)")
_TENSOR = re.compile(r"\{ Name: ([^{}]+?), Dimensions: \[([-0-9,]*)\],[^{}]*?Datatype: (\w+)")
_PROFILE = re.compile(r" \[profile (\d+)\]")
_GRAPH = re.compile(r"_(myl\d+)_\d+\b")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_GENERATED = re.compile(r"^__myl_((?:[A-Z][a-z]+)+)_")
_OPERATION = re.compile(r"[A-Z][a-z]+")
_MOVES = frozenset({"Cast", "Conc", "Move", "Repl", "Resh", "Slic", "Tran"})
# Kernels that may list a product only because they prepare its input.
_PREPARING_KINDS = frozenset({"kgen", "NoOp", "Reformat", "Shuffle", "shape_call", "Constant"})
_TYPE_WORDS: tuple[tuple[re.Pattern[str], Precision], ...] = (
    (re.compile(r"\bint8\b", re.IGNORECASE), "int8"),
    (re.compile(r"\b(half|fp16)\b", re.IGNORECASE), "fp16"),
    (re.compile(r"\b(float|fp32)\b", re.IGNORECASE), "fp32"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReportedLayer:
    """A layer as the compiler reports it.

    Attributes:
        shape, datatype: Of its first input, the type as the compiler writes it; () and "" without inputs.
        tensors: Everything that it reads and writes; None if the report is incomplete.
        profile: See _profiles.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    datatype: str
    nodes: tuple[str, ...]
    tensors: tuple[LayerTensor, ...] | None
    profile: int = 0


def audit_builder_log(lines: Iterable[str], model: "ModelProto") -> Audit:
    """Return the layers in a builder's log.

    Args:
        lines: Lines that describe no layer are ignored.
        model: The compiled model, with named nodes.
    """
    plumbing = qdq_node_names(model)
    matches = [(match, line) for line in lines if (match := LAYER_LINE.match(line))]
    profiles = _profiles([line for _, line in matches])
    reported = [
        replace(_read(match, line, plumbing), profile=profile)
        for (match, line), profile in zip(matches, profiles, strict=True)
    ]
    return _audited("builder log", reported, model)


def audit_engine_inspector(text: str, model: "ModelProto") -> Audit:
    """Return the layers that an engine inspector reports.

    Args:
        text: Its JSON for the whole engine, which was built with detailed profiling.
        model: The compiled model, with named nodes.
    """
    plumbing = qdq_node_names(model)
    layers = [each for each in json.loads(text)["Layers"] if isinstance(each, dict)]  # otherwise only names
    profiles = _profiles([json.dumps(each) for each in layers])
    reported = [
        replace(_inspected(each, plumbing), profile=profile)
        for each, profile in zip(layers, profiles, strict=True)
    ]
    return _audited("engine inspector", reported, model)


def _audited(source: str, reported: list[_ReportedLayer], model: "ModelProto") -> Audit:
    work, outputs = products_by_node(model), frozenset(value.name for value in model.graph.output)
    layers: list[CompiledLayer] = []
    for profile in sorted({layer.profile for layer in reported}):
        own = [layer for layer in reported if layer.profile == profile]
        products = [[work[name] for name in names] for names in _computed(own, work)]
        traffic = layer_traffic([layer.tensors for layer in own], products, outputs)
        layers += map(_compiled, own, products, traffic)
    return Audit(source=source, layers=tuple(layers), graph_products=len(work))


def _profiles(layers: list[str]) -> list[int]:
    """Return the optimization profile of each layer.

    Tensors and layers of profiles after the first have names with ` [profile 1]`. A generated kernel without
    that belongs to the profile of other layers in its graph, for example `_myl1`.
    """
    graphs = [match[1] if (match := _GRAPH.search(text)) else None for text in layers]
    numbers = [int(match[1]) if (match := _PROFILE.search(text)) else None for text in layers]
    profile_of_graph = {
        graph: number for graph, number in zip(graphs, numbers, strict=True) if graph and number is not None
    }
    return [
        number if number is not None else profile_of_graph.get(graph, 0)
        for graph, number in zip(graphs, numbers, strict=True)
    ]


def _inspected(layer: Mapping[str, Any], plumbing: frozenset[str]) -> _ReportedLayer:
    first: Mapping[str, Any] = next(iter(layer.get("Inputs", [])), {})
    return _ReportedLayer(
        name=layer["Name"],
        kind=layer.get("LayerType", ""),
        shape=tuple(first.get("Dimensions", ())),
        datatype=_inspected_type(first),
        nodes=_nodes(layer.get("Metadata", ""), plumbing),
        tensors=_inspected_tensors(layer),
    )


def _inspected_type(tensor: Mapping[str, Any]) -> str:
    return " ".join(str(tensor.get(key, "")) for key in ("Format/Datatype", "DataType", "Datatype", "Format"))


def _inspected_tensors(layer: Mapping[str, Any]) -> tuple[LayerTensor, ...] | None:
    """Return all tensors if weights are reported, either as tensors or as counts and types."""
    if not layer.keys() >= {"Inputs", "Outputs"} or not layer.keys() & {"Constants", "Weights"}:
        return None
    tensors = [
        _tensor(each["Name"], each["Dimensions"], _inspected_type(each))
        for each in (*layer["Inputs"], *layer.get("Constants", ()), *layer["Outputs"])
    ]
    weights = [
        _tensor(name, [layer[name]["Count"]], layer[name]["Type"])
        for name in ("Weights", "Bias")
        if name in layer
    ]
    return (*tensors, *weights)


def _nodes(metadata: str, plumbing: frozenset[str]) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(_NODE.findall(metadata)) if name not in plumbing)


def _read(match: "re.Match[str]", line: str, plumbing: frozenset[str]) -> _ReportedLayer:
    tensor = _FIRST_TENSOR.search(match["inputs"])
    return _ReportedLayer(
        name=match["name"],
        kind=match["kind"],
        shape=_sides(tensor[1]) if tensor else (),
        datatype=tensor[2] if tensor else "",
        nodes=_nodes(line, plumbing),
        tensors=_reported_tensors(line),
    )


def _reported_tensors(line: str) -> tuple[LayerTensor, ...] | None:
    found = _TENSOR.findall(line)
    if len(found) < line.count("{ Name: "):
        return None
    return tuple(_tensor(name, _sides(shape), datatype) for name, shape, datatype in found)


def _sides(text: str) -> tuple[int, ...]:
    return tuple(int(side) for side in text.split(",") if side)


def _tensor(name: str, shape: Iterable[int], datatype: str) -> LayerTensor:
    return LayerTensor(name=_PROFILE.sub("", name), shape=tuple(shape), datatype=datatype)


def _computed(reported: list[_ReportedLayer], work: Mapping[str, Product]) -> list[list[str]]:
    """Return the products of each layer. A product belongs to the last layer that may compute it."""
    place: dict[str, int] = {}
    for at, layer in enumerate(reported):
        for name in layer.nodes:
            if name not in work:
                continue
            known = name in place and reported[place[name]].kind not in _PREPARING_KINDS
            if layer.kind not in _PREPARING_KINDS or not known:
                place[name] = at
    return [[name for name, where in place.items() if where == at] for at in range(len(reported))]


def _compiled(layer: _ReportedLayer, products: list[Product], traffic: Traffic | None) -> CompiledLayer:
    return CompiledLayer(
        name=layer.name,
        kind=layer.kind,
        nodes=layer.nodes,
        products=len(products),
        macs=sum(product.macs for product in products),
        precision=_precision(layer.datatype) if products else None,
        padded=_padded(layer, products[0]) if len(products) == 1 else 1.0,
        is_depthwise=any(product.is_depthwise for product in products),
        is_reformat=not products and _is_reformat(layer),
        profile=layer.profile,
        traffic=traffic,
    )


def _padded(layer: _ReportedLayer, product: Product) -> float:
    if layer.kind in _PREPARING_KINDS or not layer.shape:
        return 1.0
    channels = layer.shape[1] if len(layer.shape) == 4 and layer.kind != "gemm" else layer.shape[-1]
    return max(channels / product.input_channels, 1.0)


def _precision(datatype: str) -> Precision | None:
    return next((precision for words, precision in _TYPE_WORDS if words.search(datatype)), None)


def _is_reformat(layer: _ReportedLayer) -> bool:
    if layer.kind == "Reformat":
        return True
    generated = _GENERATED.match(layer.name)
    return generated is not None and set(_OPERATION.findall(generated[1])) <= _MOVES
