"""ONNX -> an ONNX Runtime artifact for the CPU: the model with its precision spelled out, proved to load."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.engine.audit import Audit, CompiledLayer, audit
from deploykit.engine.dynamic_side import with_dynamic_side
from deploykit.engine.shapes import SideRange
from deploykit.engine.tensorrt import Plan
from deploykit.engine.work import nearest_product, work_of
from deploykit.errors import DeployError
from deploykit.extras import require
from deploykit.model_file import to_bytes
from deploykit.sessions import cpu_session

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# ONNX Runtime's matrix kernels by the name of their operators, in optimized graphs of version 1.31.
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
_REFORMATS = frozenset({"Cast", "ReorderInput", "ReorderOutput", "Transpose"})


def prepare_artifact(model: "ModelProto", *, side: SideRange | None = None) -> Plan:
    """The artifact for `--gpu cpu`.

    Args:
        model: its nodes are named.
        side: None for the model's own alone.

    Raises:
        DeployError: ONNX Runtime is missing or refuses the model.
    """
    data = to_bytes(with_dynamic_side(model) if side else model)
    start = time.perf_counter()
    cpu_session(data)
    return Plan(
        data=data,
        build_seconds=time.perf_counter() - start,
        audit=audit_kernels(model),
        compiler_version=require("onnxruntime").__version__,
    )


def audit_kernels(model: "ModelProto") -> Audit:
    """The kernels ONNX Runtime chooses on this CPU, which a model's Q/DQ alone don't tell.

    Args:
        model: its nodes are named.
    """
    work, nodes = work_of(model), {node.name: node for node in model.graph.node}
    makers = {name: node for node in model.graph.node for name in node.output}

    def layer(kernel: "NodeProto") -> CompiledLayer:
        last = nodes.get(kernel.name.removesuffix("_nchwc"))  # of those that are joined in the kernel
        multiplies = kernel.op_type in _INT8_OPS | _FLOAT_OPS
        product = nearest_product(last, makers) if multiplies and last is not None else None
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
            precision="int8" if kernel.op_type in _INT8_OPS else "fp32",
            is_depthwise=work[product].is_depthwise,
        )

    kernels = _optimized(to_bytes(model)).graph.node
    return audit("ONNX Runtime's optimized graph", map(layer, kernels), products=len(work))


def _optimized(model: bytes) -> "ModelProto":
    import onnx

    ort = require("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        options = ort.SessionOptions()
        options.log_severity_level = 4  # it warns that the file is for CPUs like this one
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            return onnx.load(path)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise DeployError(
                f"ONNX Runtime could not write its optimized graph into {folder}.",
                fix="make room there, or name another folder in TMPDIR",
            ) from error
