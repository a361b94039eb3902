"""Open a model of any kind to run it: an ONNX file, an engine with its manifest, or a bundle."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deploykit.engine.manifest import EngineManifest, is_bundle, manifest_path, read_engine_manifest
from deploykit.engine.shapes import MAX_BATCH, BatchRange, round_up_batch
from deploykit.networks.model_info import ModelInfo, not_a_classifier, read_model_info, require_classifier
from deploykit.onnx_tools.model_io import read_model, to_bytes
from deploykit.onnx_tools.ort_session import cpu_session, run_session
from deploykit.runtime import Engine
from deploykit.runtime.bundle.bundle import Bundle
from deploykit.runtime.preflight import preflight
from deploykit.util.array_types import Float32Array
from deploykit.util.errors import DeployError
from deploykit.util.local_gpu import local_gpu
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

Arithmetic = Literal["tensorrt", "runtime"]
"""How INT8 is computed. `tensorrt` rounds to INT8 only where the graph does, and computes in float between;
`runtime` uses the INT8 kernels of what runs the model."""
ARITHMETICS: tuple[Arithmetic, ...] = ("tensorrt", "runtime")

_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
_INSTEAD = "give a classifier; for a detector, deploykit sensitivity compares INT8 with FP32"
_ENGINE_SUFFIXES = frozenset({".engine", ".plan"})
_ONNX_BATCH = BatchRange(min=1, opt=8, max=MAX_BATCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """An opened model or engine, which is called with images.

    Attributes:
        path: The file that the user named.
        info: The model's metadata.
        precision: The precision of the graph or the engine.
        is_derived: Whether it was made from an FP32 model, rather than being one.
        batches: The batch sizes it accepts.
        arithmetic: How INT8 is computed; None for a model without INT8.
        ran_by: A description of what computes it and how.
        call: Runs one batch of an accepted size.
    """

    path: Path
    info: ModelInfo
    precision: Precision
    is_derived: bool
    batches: tuple[BatchRange, ...]
    arithmetic: Arithmetic | None
    ran_by: str
    call: Callable[[Float32Array], Any]

    def __call__(self, images: Float32Array) -> Float32Array:
        """Return the logits of images, in as many batches as needed.

        Args:
            images: (n, 3, side, side).

        Returns:
            (n, classes).

        Raises:
            DeployError: The model fails, or returns something else.
        """
        size = max(each.max for each in self.batches)
        return np.concatenate([self._run(images[at : at + size]) for at in range(0, len(images), size)])

    def _run(self, images: Float32Array) -> Float32Array:
        """Run one batch, padded to the smallest batch size that the model accepts."""
        missing = round_up_batch(self.batches, len(images)) - len(images)
        filled = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
        logits = np.asarray(self.call(filled))
        if logits.ndim != 2 or len(logits) != len(filled):
            raise DeployError(
                f"{self.path} returns shape {logits.shape} for {len(filled)} images, not (images, classes).",
                code="not-a-classifier",
                fix="give a classifier that has one output, the logits",
            )
        return logits[: len(images)].astype(np.float32, copy=False)


@contextmanager
def open_model(path: str | Path, arithmetic: Arithmetic | None = None) -> Iterator[LoadedModel]:
    """Open an ONNX file, an engine, or the engine that a bundle provides on this machine.

    Args:
        path: The file.
        arithmetic: For an ONNX file with Q/DQ, default `tensorrt`. An engine supports only `runtime`.

    Raises:
        DeployError: There is no model, it is damaged, or it is an engine for another machine.
    """
    path = Path(path)
    if not path.is_file():
        raise DeployError(
            f"{path} is a folder, not a model." if path.is_dir() else f"{path} does not exist.",
            code="model-not-found",
            fix="name a file that deploykit export or deploykit build-engine wrote",
        )
    given = path
    if is_bundle(path):
        path = Bundle(path).prepare_engine()
    has_manifest = manifest_path(path).is_file()
    if not has_manifest and path.suffix not in _ENGINE_SUFFIXES:
        yield _open_onnx(path, fuse_int8=arithmetic == "runtime")
        return
    manifest = read_engine_manifest(path)
    _require_arithmetic(path, manifest, arithmetic)
    try:
        preflight(path).require()
    except DeployError as error:
        model = f"the {manifest.precision.upper()} ONNX model it was compiled from"
        raise DeployError(
            error.problem, code=error.code, fix=f"{error.fix}; or evaluate {model} on this CPU"
        ) from error
    if manifest.more_outputs:
        raise not_a_classifier(path, [each.name for each in manifest.outputs], fix=_INSTEAD)
    with Engine.load(path) as engine:
        yield replace(_from_engine(engine), path=given)


def _require_arithmetic(path: Path, manifest: EngineManifest, arithmetic: Arithmetic | None) -> None:
    """Reject TensorRT's arithmetic for a CPU engine, whose INT8 is lowered to ONNX Runtime's kernels."""
    on_cpu = manifest.target.on_cpu
    if arithmetic == "tensorrt" and on_cpu and manifest.precision == "int8":
        raise DeployError(
            f"{path} is built for ONNX Runtime's INT8 arithmetic, not TensorRT's.",
            code="engine-not-portable",
            fix="omit --arithmetic, or evaluate the INT8 ONNX model that deploykit quantize wrote",
        )


def _open_onnx(path: Path, *, fuse_int8: bool) -> LoadedModel:
    model = read_model(path)
    info = read_model_info(model)
    has_qdq = any(node.op_type in _QDQ for node in model.graph.node)
    precision = _graph_precision(model, info)
    require_classifier(path, model, fix=_INSTEAD)
    return LoadedModel(
        path=path,
        info=info,
        precision=precision,
        is_derived=info.onnx_sha256 is not None or precision != "fp32",
        batches=(_ONNX_BATCH,),
        arithmetic=("runtime" if fuse_int8 else "tensorrt") if has_qdq else None,
        ran_by=_describe_onnxruntime(fuse_int8=fuse_int8 if has_qdq else None),
        call=_session_call(
            path if info.input_type == "float32" and info.nms is None else to_bytes(model),
            path,
            fuse_int8=fuse_int8,
        ),
    )


def _session_call(model: Path | bytes, path: Path, *, fuse_int8: bool) -> Callable[[Float32Array], Any]:
    session = cpu_session(model, fuse_int8=fuse_int8)
    return lambda images: run_session(session, images, model=path)[0]


def _from_engine(engine: Engine) -> LoadedModel:
    manifest, gpu = engine.manifest, local_gpu()
    is_int8 = manifest.precision == "int8"
    on_cpu = manifest.target.on_cpu
    return LoadedModel(
        path=engine.path,
        info=manifest.model,
        precision=manifest.precision,
        is_derived=True,
        batches=manifest.batches,
        arithmetic="runtime" if is_int8 else None,
        ran_by=_describe_onnxruntime(fuse_int8=True if is_int8 else None)
        if on_cpu or gpu is None
        else f"{manifest.target.compiler} {manifest.compiler_version} on {gpu.name}",
        call=_call_with_pixels(engine) if manifest.input.dtype == "uint8" else engine,
    )


def _call_with_pixels(engine: Engine) -> Callable[[Float32Array], Any]:
    preprocessing = engine.manifest.model.preprocessing
    return lambda images: engine(preprocessing.denormalize(images))


def _describe_onnxruntime(*, fuse_int8: bool | None) -> str:
    match fuse_int8:
        case None:
            return "ONNX Runtime on this CPU, in FP32"
        case True:
            return "ONNX Runtime on this CPU, with its own INT8 kernels"
        case False:
            return (
                "ONNX Runtime on this CPU with TensorRT's arithmetic: INT8 where the graph rounds, then float"
            )


def _graph_precision(model: "ModelProto", info: ModelInfo) -> Precision:
    """Return the precision of the graph itself; other tools quantize without updating the metadata."""
    from onnx import TensorProto

    if any(node.op_type in _QDQ for node in model.graph.node):
        return "int8"
    if info.family != "unknown":
        return info.precision
    has_fp16 = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return "fp16" if has_fp16 else "fp32"
