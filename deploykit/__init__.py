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
    from deploykit.accuracy.evaluate import evaluate_model
    from deploykit.bench.benchmark import benchmark
    from deploykit.bench.compare import compare_records
    from deploykit.bench.record_file import read_record, write_record
    from deploykit.engine.build import build_engine
    from deploykit.engine.manifest import read_engine_manifest
    from deploykit.engine.quantize_model import quantize_model
    from deploykit.engine.shapes import BatchRange, SideRange
    from deploykit.gpu_catalog.gpus import known_gpus
    from deploykit.networks.checkpoints.load import load_weights
    from deploykit.networks.checkpoints.recognize import recognize
    from deploykit.networks.export import export_onnx
    from deploykit.networks.member import choose_member
    from deploykit.networks.scaling import scale_for
    from deploykit.planning.fit.fit import fit_phi
    from deploykit.planning.search.search import search_scaling
    from deploykit.quantize.calibration_files import calibrate_to_file
    from deploykit.quantize.int8_options import Int8Options
    from deploykit.quantize.sensitivity import measure_sensitivity
    from deploykit.reporting.report.page import write_report
    from deploykit.reporting.study.study import run_study
    from deploykit.runtime import Engine
    from deploykit.runtime.bundle.bundle import Bundle, write_bundle
    from deploykit.runtime.doctor import diagnose
    from deploykit.runtime.preflight import preflight
    from deploykit.serving.client import Client
    from deploykit.serving.repository.check import check_repository
    from deploykit.serving.repository.write import write_repository
    from deploykit.serving.serve import serve
    from deploykit.util.errors import DeployError

_HOMES = {
    "measure_sensitivity": "deploykit.quantize.sensitivity",
    "quantize_model": "deploykit.engine.quantize_model",
    "evaluate_model": "deploykit.accuracy.evaluate",
    "Int8Options": "deploykit.quantize.int8_options",
    "BatchRange": "deploykit.engine.shapes",
    "Bundle": "deploykit.runtime.bundle.bundle",
    "Client": "deploykit.serving.client",
    "SideRange": "deploykit.engine.shapes",
    "DeployError": "deploykit.util.errors",
    "Engine": "deploykit.runtime",
    "benchmark": "deploykit.bench.benchmark",
    "build_engine": "deploykit.engine.build",
    "calibrate_to_file": "deploykit.quantize.calibration_files",
    "check_repository": "deploykit.serving.repository.check",
    "choose_member": "deploykit.networks.member",
    "compare_records": "deploykit.bench.compare",
    "diagnose": "deploykit.runtime.doctor",
    "export_onnx": "deploykit.networks.export",
    "fit_phi": "deploykit.planning.fit.fit",
    "known_gpus": "deploykit.gpu_catalog.gpus",
    "load_weights": "deploykit.networks.checkpoints.load",
    "preflight": "deploykit.runtime.preflight",
    "read_engine_manifest": "deploykit.engine.manifest",
    "read_record": "deploykit.bench.record_file",
    "recognize": "deploykit.networks.checkpoints.recognize",
    "run_study": "deploykit.reporting.study.study",
    "scale_for": "deploykit.networks.scaling",
    "search_scaling": "deploykit.planning.search.search",
    "serve": "deploykit.serving.serve",
    "write_bundle": "deploykit.runtime.bundle.bundle",
    "write_record": "deploykit.bench.record_file",
    "write_report": "deploykit.reporting.report.page",
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
    "compare_records",
    "diagnose",
    "evaluate_model",
    "export_onnx",
    "fit_phi",
    "known_gpus",
    "load_weights",
    "measure_sensitivity",
    "preflight",
    "quantize_model",
    "read_engine_manifest",
    "read_record",
    "recognize",
    "run_study",
    "scale_for",
    "search_scaling",
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
