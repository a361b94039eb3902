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
    from deploykit.accuracy.evaluation import Evaluation
    from deploykit.bench.accuracy_record import AccuracyRecord
    from deploykit.bench.benchmark import benchmark
    from deploykit.bench.compare import Comparison, compare_records
    from deploykit.bench.layers.layer_profile import LayerProfile
    from deploykit.bench.record import Record
    from deploykit.bench.record_file import read_record, write_record
    from deploykit.data.preprocessing import Overrides
    from deploykit.engine.build import BuiltEngine, build_engine
    from deploykit.engine.compilers import BuildOptions
    from deploykit.engine.manifest import EngineManifest, read_engine_manifest
    from deploykit.engine.quantize_model import quantize_model
    from deploykit.engine.shapes import BatchRange, SideRange
    from deploykit.gpu_catalog.gpus import Gpu, known_gpus
    from deploykit.networks.checkpoints.checkpoint_match import CheckpointMatch
    from deploykit.networks.checkpoints.load import load_weights
    from deploykit.networks.checkpoints.recognize import recognize
    from deploykit.networks.checkpoints.weights import Weights
    from deploykit.networks.export import Export, export_onnx
    from deploykit.networks.families.family import Family
    from deploykit.networks.member import Member, choose_member
    from deploykit.networks.scaling import Coefficients, Scale, scale_for
    from deploykit.onnx_tools.nms import Nms
    from deploykit.planning.fit.fit import fit_phi
    from deploykit.planning.fit.result import FitResult
    from deploykit.planning.search.search import SearchResult, search_scaling
    from deploykit.quantize.calibration.ranges import Ranges
    from deploykit.quantize.calibration_files import calibrate_to_file
    from deploykit.quantize.int8_options import Int8Options
    from deploykit.quantize.plan import Int8Plan
    from deploykit.quantize.sensitivity import Sensitivity, measure_sensitivity
    from deploykit.reporting.report.page import write_report
    from deploykit.reporting.report.section import Section
    from deploykit.reporting.study.study import FinishedRecord, Study, run_study
    from deploykit.runtime import Engine
    from deploykit.runtime.bundle.bundle import Bundle, write_bundle
    from deploykit.runtime.bundle.resolution import Resolution
    from deploykit.runtime.doctor import Diagnosis, diagnose
    from deploykit.runtime.preflight import Preflight, RuntimeEnvironment, preflight
    from deploykit.runtime.runner import Runner
    from deploykit.runtime.tensorrt.layer_profiler import LayerProfiler
    from deploykit.runtime.tensorrt.timing import CallTimer
    from deploykit.serving.client import Client, ImageResult
    from deploykit.serving.repository.check import CheckedRepository, check_repository
    from deploykit.serving.repository.options import ModelOptions
    from deploykit.serving.repository.write import WrittenModel, write_repository
    from deploykit.serving.serve import serve
    from deploykit.serving.triton.options import ServerOptions
    from deploykit.serving.triton.server import Server
    from deploykit.util.errors import DeployError
    from deploykit.util.progress import Progress

_HOMES = {
    "AccuracyRecord": "deploykit.bench.accuracy_record",
    "BatchRange": "deploykit.engine.shapes",
    "BuildOptions": "deploykit.engine.compilers",
    "BuiltEngine": "deploykit.engine.build",
    "Bundle": "deploykit.runtime.bundle.bundle",
    "CallTimer": "deploykit.runtime.tensorrt.timing",
    "CheckedRepository": "deploykit.serving.repository.check",
    "CheckpointMatch": "deploykit.networks.checkpoints.checkpoint_match",
    "Client": "deploykit.serving.client",
    "Coefficients": "deploykit.networks.scaling",
    "Comparison": "deploykit.bench.compare",
    "DeployError": "deploykit.util.errors",
    "Diagnosis": "deploykit.runtime.doctor",
    "Engine": "deploykit.runtime",
    "EngineManifest": "deploykit.engine.manifest",
    "Evaluation": "deploykit.accuracy.evaluation",
    "Export": "deploykit.networks.export",
    "Family": "deploykit.networks.families.family",
    "FinishedRecord": "deploykit.reporting.study.study",
    "FitResult": "deploykit.planning.fit.result",
    "Gpu": "deploykit.gpu_catalog.gpus",
    "ImageResult": "deploykit.serving.client",
    "Int8Options": "deploykit.quantize.int8_options",
    "Int8Plan": "deploykit.quantize.plan",
    "LayerProfile": "deploykit.bench.layers.layer_profile",
    "LayerProfiler": "deploykit.runtime.tensorrt.layer_profiler",
    "Member": "deploykit.networks.member",
    "ModelOptions": "deploykit.serving.repository.options",
    "Nms": "deploykit.onnx_tools.nms",
    "Overrides": "deploykit.data.preprocessing",
    "Preflight": "deploykit.runtime.preflight",
    "Progress": "deploykit.util.progress",
    "Ranges": "deploykit.quantize.calibration.ranges",
    "Record": "deploykit.bench.record",
    "Resolution": "deploykit.runtime.bundle.resolution",
    "Runner": "deploykit.runtime.runner",
    "RuntimeEnvironment": "deploykit.runtime.preflight",
    "Scale": "deploykit.networks.scaling",
    "SearchResult": "deploykit.planning.search.search",
    "Section": "deploykit.reporting.report.section",
    "Sensitivity": "deploykit.quantize.sensitivity",
    "Server": "deploykit.serving.triton.server",
    "ServerOptions": "deploykit.serving.triton.options",
    "SideRange": "deploykit.engine.shapes",
    "Study": "deploykit.reporting.study.study",
    "Weights": "deploykit.networks.checkpoints.weights",
    "WrittenModel": "deploykit.serving.repository.write",
    "benchmark": "deploykit.bench.benchmark",
    "build_engine": "deploykit.engine.build",
    "calibrate_to_file": "deploykit.quantize.calibration_files",
    "check_repository": "deploykit.serving.repository.check",
    "choose_member": "deploykit.networks.member",
    "compare_records": "deploykit.bench.compare",
    "diagnose": "deploykit.runtime.doctor",
    "evaluate_model": "deploykit.accuracy.evaluate",
    "export_onnx": "deploykit.networks.export",
    "fit_phi": "deploykit.planning.fit.fit",
    "known_gpus": "deploykit.gpu_catalog.gpus",
    "load_weights": "deploykit.networks.checkpoints.load",
    "measure_sensitivity": "deploykit.quantize.sensitivity",
    "preflight": "deploykit.runtime.preflight",
    "quantize_model": "deploykit.engine.quantize_model",
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
    "AccuracyRecord",
    "BatchRange",
    "BuildOptions",
    "BuiltEngine",
    "Bundle",
    "CallTimer",
    "CheckedRepository",
    "CheckpointMatch",
    "Client",
    "Coefficients",
    "Comparison",
    "DeployError",
    "Diagnosis",
    "Engine",
    "EngineManifest",
    "Evaluation",
    "Export",
    "Family",
    "FinishedRecord",
    "FitResult",
    "Gpu",
    "ImageResult",
    "Int8Options",
    "Int8Plan",
    "LayerProfile",
    "LayerProfiler",
    "Member",
    "ModelOptions",
    "Nms",
    "Overrides",
    "Preflight",
    "Progress",
    "Ranges",
    "Record",
    "Resolution",
    "Runner",
    "RuntimeEnvironment",
    "Scale",
    "SearchResult",
    "Section",
    "Sensitivity",
    "Server",
    "ServerOptions",
    "SideRange",
    "Study",
    "Weights",
    "WrittenModel",
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
