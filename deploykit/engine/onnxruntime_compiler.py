"""ONNX -> an ONNX Runtime artifact: a model with explicit precision that ONNX Runtime has loaded."""

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit.engine.audit.audit import Audit, CompiledLayer
from deploykit.engine.audit.graph_nodes import product_before, products_by_node
from deploykit.engine.compiled_engine import CompiledEngine
from deploykit.engine.lowering.dynamic_side import with_dynamic_side
from deploykit.engine.shapes import SideRange
from deploykit.onnx_tools.model_io import to_bytes
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Operators of ONNX Runtime's matrix kernels, as optimized graphs of version 1.31 name them.
_INT8_OPS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
_FLOAT_OPS = frozenset({"Conv", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"})
# What ONNX Runtime adds to the name of a node that it rewrites.
_NAME_AFFIXES = re.compile("^fused |^InsertedPrecisionFreeCast_|_nchwc$")

SessionFactory = Callable[..., Any]
"""ort_session.cpu_session or cuda_session."""

_REFORMATS = frozenset(
    {"Cast", "MemcpyFromHost", "MemcpyToHost", "ReorderInput", "ReorderOutput", "Transpose"}
)


def prepare_artifact(
    model: "ModelProto", *, side: SideRange | None = None, open_session: SessionFactory = cpu_session
) -> CompiledEngine:
    """Return the artifact of `--compiler onnxruntime`.

    Args:
        model: With named nodes.
        side: Image sides that the artifact accepts; None for only the model's own.
        open_session: Opens the session in which the model is tried and audited.

    Raises:
        DeployError: ONNX Runtime is missing, or refuses the model.
    """
    data = to_bytes(with_dynamic_side(model) if side else model)
    start = time.perf_counter()
    open_session(data)
    return CompiledEngine(
        data=data,
        build_seconds=time.perf_counter() - start,
        audit=audit_kernels(model, open_session),
        compiler_version=require("onnxruntime").__version__,
    )


def audit_kernels(model: "ModelProto", open_session: SessionFactory = cpu_session) -> Audit:
    """Return the kernels that ONNX Runtime selects on this machine.

    The Q/DQ pairs of a model only say what is wanted; the optimized graph says what is computed.

    Args:
        model: With named nodes.
    """
    from onnx import TensorProto

    work, nodes = products_by_node(model), {node.name: node for node in model.graph.node}
    producers = {name: node for node in model.graph.node for name in node.output}
    optimized = _optimized(to_bytes(model), open_session)
    halves = {each.name for each in optimized.graph.initializer if each.data_type == TensorProto.FLOAT16}

    def precision(kernel: "NodeProto") -> Precision:
        if kernel.op_type in _INT8_OPS:
            return "int8"
        return "fp16" if halves.intersection(kernel.input) else "fp32"

    def layer(kernel: "NodeProto") -> CompiledLayer:
        last = nodes.get(_NAME_AFFIXES.sub("", kernel.name))  # the last of the nodes fused into the kernel
        multiplies = kernel.op_type in _INT8_OPS | _FLOAT_OPS
        product = product_before(last, producers) if multiplies and last is not None else None
        known = [last.name] if last is not None else []
        if product is None or product not in work:
            is_reformat = kernel.op_type in _REFORMATS
            return CompiledLayer(
                name=kernel.name, kind=kernel.op_type, nodes=tuple(known), is_reformat=is_reformat
            )
        return CompiledLayer(
            name=kernel.name,
            kind=kernel.op_type,
            nodes=tuple(dict.fromkeys([product, *known])),
            products=1,
            macs=work[product].macs,
            precision=precision(kernel),
            is_depthwise=work[product].is_depthwise,
        )

    layers = tuple(map(layer, optimized.graph.node))
    return Audit(source="ONNX Runtime's optimized graph", layers=layers, graph_products=len(work))


def _optimized(model: bytes, open_session: SessionFactory) -> "ModelProto":
    import onnx
    from google.protobuf.message import DecodeError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        try:
            open_session(model, optimized=path)
            return onnx.load(path)
        except (DeployError, OSError, DecodeError) as error:
            raise DeployError(
                f"ONNX Runtime could not write its optimized graph to {folder}.",
                code="output-unwritable",
                fix="free disk space there, or set TMPDIR to another folder",
            ) from error
