"""From a compute budget to a served model: scale, export, quantize, compile, measure, fit.

    import deploykit
    deploykit.export_onnx(3)
    built = deploykit.build_engine(precision="int8")
    deploykit.fit_phi("T4", max_latency_ms=10).chosen

Names load on first use, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from deploykit.architecture.member import choose_member
    from deploykit.bench.benchmark import benchmark
    from deploykit.bench.compare import compare
    from deploykit.bench.record_file import read_record, write_record
    from deploykit.doctor import diagnose
    from deploykit.engine.manifest import read_manifest
    from deploykit.engine.shapes import BatchRange, SideRange
    from deploykit.errors import DeployError
    from deploykit.evaluate import evaluate_model
    from deploykit.export import export_onnx
    from deploykit.fit.run import fit_phi
    from deploykit.models.recognize import recognize
    from deploykit.models.weights import load_weights
    from deploykit.pipeline import build_engine, quantize_model
    from deploykit.predict.gpus import known_gpus
    from deploykit.quantize.calibration import calibrate_to_file
    from deploykit.quantize.plan import Int8Options
    from deploykit.quantize.sensitivity import sensitivity_of
    from deploykit.report.page import write_report
    from deploykit.runtime import Engine
    from deploykit.runtime.bundle import Bundle, write_bundle
    from deploykit.runtime.preflight import preflight
    from deploykit.scaling import scale_for
    from deploykit.search.run import search_scaling
    from deploykit.serving.client import Client
    from deploykit.serving.live import serve
    from deploykit.serving.repository.check import check_repository
    from deploykit.serving.repository.write import write_repository
    from deploykit.study.run import run_study

_HOMES = {
    "sensitivity_of": "deploykit.quantize.sensitivity",
    "quantize_model": "deploykit.pipeline",
    "evaluate_model": "deploykit.evaluate",
    "Int8Options": "deploykit.quantize.plan",
    "BatchRange": "deploykit.engine.shapes",
    "Bundle": "deploykit.runtime.bundle",
    "Client": "deploykit.serving.client",
    "SideRange": "deploykit.engine.shapes",
    "DeployError": "deploykit.errors",
    "Engine": "deploykit.runtime",
    "benchmark": "deploykit.bench.benchmark",
    "build_engine": "deploykit.pipeline",
    "calibrate_to_file": "deploykit.quantize.calibration",
    "check_repository": "deploykit.serving.repository.check",
    "choose_member": "deploykit.architecture.member",
    "compare": "deploykit.bench.compare",
    "diagnose": "deploykit.doctor",
    "export_onnx": "deploykit.export",
    "fit_phi": "deploykit.fit.run",
    "known_gpus": "deploykit.predict.gpus",
    "load_weights": "deploykit.models.weights",
    "preflight": "deploykit.runtime.preflight",
    "read_manifest": "deploykit.engine.manifest",
    "read_record": "deploykit.bench.record_file",
    "recognize": "deploykit.models.recognize",
    "run_study": "deploykit.study.run",
    "scale_for": "deploykit.scaling",
    "search_scaling": "deploykit.search.run",
    "serve": "deploykit.serving.live",
    "write_bundle": "deploykit.runtime.bundle",
    "write_record": "deploykit.bench.record_file",
    "write_report": "deploykit.report.page",
    "write_repository": "deploykit.serving.repository.write",
}

__all__ = [
    "BatchRange",
    "Bundle",
    "Client",
    "DeployError",
    "Engine",
    "Int8Options",
    "SideRange",
    "__version__",
    "benchmark",
    "build_engine",
    "calibrate_to_file",
    "check_repository",
    "choose_member",
    "compare",
    "diagnose",
    "evaluate_model",
    "export_onnx",
    "fit_phi",
    "known_gpus",
    "load_weights",
    "preflight",
    "quantize_model",
    "read_manifest",
    "read_record",
    "recognize",
    "run_study",
    "scale_for",
    "search_scaling",
    "sensitivity_of",
    "serve",
    "write_bundle",
    "write_record",
    "write_report",
    "write_repository",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
