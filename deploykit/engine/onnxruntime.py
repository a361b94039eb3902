"""ONNX -> an ONNX Runtime artifact for the CPU: the model with its precision spelled out, proved to load."""

import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.engine.audit import Audit
from deploykit.engine.tensorrt import Plan
from deploykit.extras import require
from deploykit.model_file import to_bytes
from deploykit.sessions import cpu_session

if TYPE_CHECKING:
    from onnx import ModelProto

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
        build_seconds=time.perf_counter() - start,
        audit=audit_kernels(data),
        compiler_version=require("onnxruntime").__version__,
    )


def audit_kernels(model: bytes) -> Audit:
    """Counts the kernels ONNX Runtime chooses on this CPU, which a model's Q/DQ alone don't tell."""
    optimized = _optimized(model)
    kernels = Counter(node.op_type for node in optimized.graph.node)
    return Audit(
        source="ONNX Runtime's optimized graph",
        layers=kernels.total(),
        int8=sum(kernels[op] for op in _INT8_OPS),
        fp16=0,
        fp32=sum(kernels[op] for op in _FLOAT_OPS),
    )


def _optimized(model: bytes) -> "ModelProto":
    import onnx

    ort = require("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        options = ort.SessionOptions()
        options.log_severity_level = 4  # it warns that the file is for CPUs like this one
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return onnx.load(path)
