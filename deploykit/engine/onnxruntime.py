"""ONNX -> an ONNX Runtime artifact for the CPU: the model with its precision spelled out, proved to load."""

import time
from typing import TYPE_CHECKING

from deploykit.engine.audit import Audit
from deploykit.engine.tensorrt import Plan
from deploykit.extras import require
from deploykit.model_file import to_bytes
from deploykit.sessions import cpu_session

if TYPE_CHECKING:
    from onnx import ModelProto

_MATRIX_OPS = frozenset({"Conv", "Gemm", "MatMul"})


def prepare_artifact(model: "ModelProto") -> Plan:
    """The artifact for `--gpu cpu`.

    Raises:
        DeployError: ONNX Runtime is missing or refuses the model.
    """
    data = to_bytes(model)
    start = time.perf_counter()
    cpu_session(data)
    return Plan(
        data=data,
        audit=_audit_graph(model),
        compiler_version=require("onnxruntime").__version__,
        build_seconds=time.perf_counter() - start,
    )


def _audit_graph(model: "ModelProto") -> Audit:
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    matrix_nodes = [node for node in model.graph.node if node.op_type in _MATRIX_OPS]
    int8 = sum(node.input[0] in dequantized for node in matrix_nodes)
    return Audit(
        source="onnx graph",
        layers=len(model.graph.node),
        int8=int8,
        fp16=0,
        fp32=len(matrix_nodes) - int8,
    )
