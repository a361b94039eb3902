"""A model and engines of it -> a bundle, if they belong together."""

import hashlib
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit import __version__
from deploykit.engine.compile import require_model_side
from deploykit.engine.lowering.dynamic_side import require_sides
from deploykit.engine.manifest import EngineManifest, manifest_path, read_engine_manifest
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
    """Writes a bundle; see runtime.bundle.bundle.write_bundle.

    Raises:
        DeployError: these can't be bundled; nothing is written.
    """
    _require_output(output, (model, *engines))
    graph, data = read_model(model), model.read_bytes()
    info = read_model_info(graph)
    _require_exported(model, graph, info)
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
    _tell_where_none_is_built(contents, note)
    plans = {plan.name: engine.read_bytes() for plan, engine in zip(contents.plans, engines, strict=True)}
    write_bundle_file(output, contents, {MODEL_NAME: data, **plans})


def _require_output(output: Path, inputs: tuple[Path, ...]) -> None:
    require_writable(output, inputs=(*inputs, *map(manifest_path, inputs)))
    if output.exists() and not looks_like_bundle(output):
        raise DeployError(
            f"{output} is there already, and is no bundle to replace.",
            code="file-exists",
            fix="give another name with -o",
        )


def _require_exported(path: Path, graph: "ModelProto", info: ModelInfo) -> None:
    """Fails where a model is one that a compiler got, as ONNX Runtime's artifacts are."""
    is_compiled = info.onnx_sha256 is not None if info.precision == "fp32" else _is_spelled_for_cpus(graph)
    if is_compiled:
        raise DeployError(
            f"{path} is an engine for one kind of machine, no model to build others of.",
            code="not-an-onnx-model",
            fix="give the model that deploykit export or deploykit quantize wrote, and engines after it",
        )


def _is_spelled_for_cpus(graph: "ModelProto") -> bool:
    """Whether it quantizes to uint8: quantized models are in int8 throughout."""
    from onnx import TensorProto

    unsigned = {each.name for each in graph.graph.initializer if each.data_type == TensorProto.UINT8}
    return any(unsigned.intersection(node.input[2:]) for node in graph.graph.node if node.op_type in _QDQ)


def _require_sides(graph: "ModelProto", info: ModelInfo, side: SideRange | None) -> None:
    if side is not None:
        require_model_side(info, side)
        require_sides(graph, side)


def _precision(path: Path, info: ModelInfo, asked: Precision | None) -> Precision:
    """What to build of a model where no plan runs."""
    if info.precision == "fp16" or (info.precision == "int8" and asked not in (None, "int8")):
        raise DeployError(
            f"{path} is {info.precision.upper()} already.",
            code="model-not-fp32",
            fix="give the FP32 model, or ask for no other precision",
        )
    if info.precision == "fp32" and asked == "int8":
        raise DeployError(
            f"{path} has no Q/DQ to build INT8 of.",
            code="model-not-quantized",
            fix="deploykit quantize makes a model that has",
        )
    return "int8" if info.precision == "int8" else asked or "fp16"


def _fp32_sha256(path: Path, info: ModelInfo, onnx_sha256: str) -> str:
    """Digest of the FP32 model that a model comes from, or is."""
    found = onnx_sha256 if info.precision == "fp32" else info.onnx_sha256
    if found is None:
        raise DeployError(
            f"{path} does not say which FP32 model it was made from.",
            code="model-origin-unknown",
            fix="quantize it with deploykit",
        )
    return found


def _plans(model: Path, engines: Sequence[Path], fp32_sha256: str) -> tuple[BundledPlan, ...]:
    manifests = [read_engine_manifest(engine) for engine in engines]
    for engine, manifest in zip(engines, manifests, strict=True):
        if manifest.model.onnx_sha256 != fp32_sha256:
            raise DeployError(
                f"{engine} was made from another model than {model}.",
                code="engine-wrong-model",
                fix="build it from this one",
            )
    _require_different(list(zip(engines, manifests, strict=True)))
    return tuple(
        BundledPlan(name=f"plans/{at}.engine", manifest=manifest) for at, manifest in enumerate(manifests)
    )


def _require_different(engines: Sequence[tuple[Path, EngineManifest]]) -> None:
    for (first, one), (second, other) in combinations(engines, 2):
        if one.engine_sha256 == other.engine_sha256:
            raise DeployError(
                f"{second} is the same engine as {first}.",
                code="engine-repeated",
                fix="give each engine once",
            )


def _tell_where_none_is_built(contents: BundleContents, note: Callable[[str], None]) -> None:
    if any(plan.manifest.target.on_cpu for plan in contents.plans):
        return
    try:
        require_buildable_for(contents, resolve_target(CPU))
    except DeployError as error:
        note(f"Where there is no GPU it can't be loaded: {error.problem} An engine for the CPU would be.")
