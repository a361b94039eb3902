"""Pack a model and engines into a bundle, after checking that they belong together."""

import hashlib
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.engine.lowering.dynamic_side import require_sides
from deploykit.engine.manifest import EngineManifest, manifest_path, read_engine_manifest
from deploykit.engine.require_buildable import require_model_side
from deploykit.engine.shapes import BatchRange, SideRange
from deploykit.engine.targets import CPU, resolve_target
from deploykit.networks.model_info import ModelInfo, read_model_info
from deploykit.onnx_tools.model_io import read_model
from deploykit.runtime.bundle.archive import (
    MODEL_NAME,
    BundleContents,
    BundledPlan,
    looks_like_bundle,
    write_bundle_file,
)
from deploykit.runtime.bundle.resolution import require_buildable_for
from deploykit.util.atomic_files import require_writable
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})


def pack_bundle(
    model: Path,
    engines: Sequence[Path],
    *,
    output: Path,
    precision: Precision | None,
    batches: tuple[BatchRange, ...],
    side: SideRange | None,
    note: Callable[[str], None],
) -> None:
    """Write a bundle; see runtime.bundle.bundle.write_bundle.

    Raises:
        DeployError: These files cannot be bundled; nothing is written.
    """
    _require_output(output, (model, *engines))
    graph, data = read_model(model), model.read_bytes()
    info = read_model_info(graph)
    _require_portable_model(model, graph, info)
    _require_sides(graph, info, side)
    onnx_sha256 = hashlib.sha256(data).hexdigest()
    fp32_sha256 = _fp32_sha256(model, info, onnx_sha256)
    contents = BundleContents(
        model=info,
        onnx_sha256=onnx_sha256,
        fp32_sha256=fp32_sha256,
        precision=_precision(model, info, precision),
        batches=batches,
        side=side,
        plans=_plans(model, engines, fp32_sha256),
        deploykit_version=__version__,
    )
    _note_missing_cpu(contents, note)
    plans = {plan.name: engine.read_bytes() for plan, engine in zip(contents.plans, engines, strict=True)}
    write_bundle_file(output, contents, {MODEL_NAME: data, **plans})


def _require_output(output: Path, inputs: tuple[Path, ...]) -> None:
    require_writable(output, inputs=(*inputs, *map(manifest_path, inputs)))
    if output.exists() and not looks_like_bundle(output):
        raise DeployError(
            f"{output} exists and is not a bundle, so it is not replaced.",
            code="file-exists",
            fix="choose another name with -o",
        )


def _require_portable_model(path: Path, graph: "ModelProto", info: ModelInfo) -> None:
    """Raise an error for a model that was lowered for one compiler, as ONNX Runtime's engines are."""
    is_compiled = info.onnx_sha256 is not None if info.precision == "fp32" else _is_lowered_for_cpu(graph)
    if is_compiled:
        raise DeployError(
            f"{path} is an engine for one kind of machine, so engines for others cannot be built from it.",
            code="not-an-onnx-model",
            fix="pass the model of deploykit export or deploykit quantize first, and the engines after it",
        )


def _is_lowered_for_cpu(graph: "ModelProto") -> bool:
    """Return whether it quantizes to uint8; portable quantized models use int8 only."""
    from onnx import TensorProto

    unsigned = {each.name for each in graph.graph.initializer if each.data_type == TensorProto.UINT8}
    return any(unsigned.intersection(node.input[2:]) for node in graph.graph.node if node.op_type in _QDQ)


def _require_sides(graph: "ModelProto", info: ModelInfo, side: SideRange | None) -> None:
    if side is not None:
        require_model_side(info, side)
        require_sides(graph, side)


def _precision(path: Path, info: ModelInfo, requested: Precision | None) -> Precision:
    """Return the precision to build if no plan runs."""
    if info.precision == "fp16" or (info.precision == "int8" and requested not in (None, "int8")):
        raise DeployError(
            f"{path} is an {info.precision.upper()} model already.",
            code="model-not-fp32",
            fix="pass the FP32 model, or do not request another precision",
        )
    if info.precision == "fp32" and requested == "int8":
        raise DeployError(
            f"{path} has no Q/DQ nodes, so INT8 cannot be built from it.",
            code="model-not-quantized",
            fix="quantize it first: deploykit quantize --onnx MODEL",
        )
    return "int8" if info.precision == "int8" else requested or "fp16"


def _fp32_sha256(path: Path, info: ModelInfo, onnx_sha256: str) -> str:
    """Return the digest of the FP32 model that a model is, or was made from."""
    sha256 = onnx_sha256 if info.precision == "fp32" else info.onnx_sha256
    if sha256 is None:
        raise DeployError(
            f"{path} does not name the FP32 model that it was made from.",
            code="model-origin-unknown",
            fix="quantize the FP32 model: deploykit quantize --onnx MODEL",
        )
    return sha256


def _plans(model: Path, engines: Sequence[Path], fp32_sha256: str) -> tuple[BundledPlan, ...]:
    manifests = [read_engine_manifest(engine) for engine in engines]
    for engine, manifest in zip(engines, manifests, strict=True):
        if manifest.model.onnx_sha256 != fp32_sha256:
            raise DeployError(
                f"{engine} was not made from {model}.",
                code="engine-wrong-model",
                fix="build it from this model: deploykit build-engine --onnx MODEL",
            )
    _require_distinct(list(zip(engines, manifests, strict=True)))
    return tuple(
        BundledPlan(name=f"plans/{at}.engine", manifest=manifest) for at, manifest in enumerate(manifests)
    )


def _require_distinct(engines: Sequence[tuple[Path, EngineManifest]]) -> None:
    for (first, one), (second, other) in combinations(engines, 2):
        if one.engine_sha256 == other.engine_sha256:
            raise DeployError(
                f"{second} is the same engine as {first}.",
                code="engine-repeated",
                fix="pass each engine once",
            )


def _note_missing_cpu(contents: BundleContents, note: Callable[[str], None]) -> None:
    if any(plan.manifest.target.on_cpu for plan in contents.plans):
        return
    try:
        require_buildable_for(contents, resolve_target(CPU))
    except DeployError as error:
        note(
            f"The bundle cannot be loaded on a machine without a GPU: {error.problem} "
            "Add an engine for the CPU if you need one."
        )
