"""Bundles: one file for many machines, with a model and its plans.

Loading a bundle runs the plan for this environment. If it has none, an engine is built once and cached.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.engine.audit.graph_nodes import count_int8_products
from deploykit.engine.compile_graph import compile_graph
from deploykit.engine.compilers import COMPILERS
from deploykit.engine.manifest import EngineManifest
from deploykit.engine.prepare_graph import lower_graph
from deploykit.engine.shapes import BatchRange, SideRange
from deploykit.engine.targets import Target, lacks_int8_convolutions
from deploykit.networks.model_info import read_model_info
from deploykit.onnx_tools.model_io import read_model
from deploykit.runtime.bundle.archive import (
    MODEL_NAME,
    read_bundle_contents,
    read_bundled_file,
    verify_bundle_files,
)
from deploykit.runtime.bundle.engine_cache import (
    EngineCache,
    cached_engine_name,
    require_temporary_folder,
    temporary_folder,
)
from deploykit.runtime.bundle.resolution import (
    Resolution,
    choose_build_precision,
    require_buildable_for,
    resolve_plan,
)
from deploykit.runtime.bundle.writer import pack_bundle
from deploykit.runtime.preflight import RuntimeEnvironment, detect_environment
from deploykit.util.errors import DeployError
from deploykit.util.progress import Progress, no_progress
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Bundle", "Resolution", "write_bundle"]

_log = logging.getLogger(__name__)


def _ignore(sentence: str) -> None:
    """Ignore a note."""


class Bundle:
    """An open bundle.

    Attributes:
        path: The bundle file.
        contents: What bundle.json says.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the contents of a bundle.

        Raises:
            DeployError: The file is not a bundle, or was modified or truncated.
        """
        self.path = Path(path)
        self.contents, digest = read_bundle_contents(self.path)
        self._cache = EngineCache(digest[:32])

    def resolve(self, environment: RuntimeEnvironment | None = None) -> Resolution:
        """Decide what the bundle does on a machine, by default this one.

        Raises:
            DeployError: A file in the bundle was modified, so none of it is trusted.
        """
        verify_bundle_files(self.path, self.contents)
        environment = environment or detect_environment()
        resolution = resolve_plan(self.contents, environment)
        cached = self._find_cached(resolution, environment)
        uncacheable = None if cached else self._cache.unwritable_reason()
        error = None if cached else self._find_error(resolution, environment, uncacheable)
        return replace(resolution, cached_path=cached, uncacheable_reason=uncacheable, error=error)

    def prepare_engine(self, *, progress: Progress = no_progress) -> Path:
        """Return an engine that runs on this machine, unpacked or built, in the user's cache folder.

        If that folder cannot be written, the engine is in a temporary folder that is deleted when this
        process ends.

        Args:
            progress: Receives the progress of building.

        Raises:
            DeployError: A file in the bundle was modified, or nothing in it can run or be built here.
        """
        environment = detect_environment()
        resolution = self.resolve(environment)
        if resolution.fallback_reason is not None:
            _log.warning("note: %s runs on the CPU: %s", self.path, resolution.fallback_reason)
        if resolution.error is not None:
            raise resolution.error
        if resolution.cached_path is not None:
            return resolution.cached_path
        return self._cache.get_or_create(
            _cache_name(resolution, environment),
            environment,
            lambda: self._create_engine(resolution, progress),
        )

    def _find_cached(self, resolution: Resolution, environment: RuntimeEnvironment) -> Path | None:
        target = resolution.build_target
        if target is not None and target.compiler not in environment.runtimes:
            return None
        return self._cache.find(_cache_name(resolution, environment), environment)

    def _find_error(
        self, resolution: Resolution, environment: RuntimeEnvironment, uncacheable: str | None
    ) -> DeployError | None:
        """Return why nothing can run on a machine without a cached engine; None if something can."""
        try:
            if resolution.build_target is not None:
                self._require_build(resolution.build_target, environment)
            if resolution.build_target is not None or uncacheable is not None:
                require_temporary_folder()
        except DeployError as error:
            return error
        return None

    def _require_build(self, target: Target, environment: RuntimeEnvironment) -> None:
        if target.compiler not in environment.runtimes:
            facts = COMPILERS[target.compiler]
            raise DeployError(
                f"No plan in {self.path} runs on this machine, and {facts.title}, which could build one, is "
                "not installed.",
                code="bundle-cannot-run",
                fix=facts.install,
            )
        try:
            require_buildable_for(self.contents, target)
        except DeployError as error:
            raise DeployError(
                f"No plan in {self.path} runs on this machine, and none can be built for {target.title}: "
                f"{error.problem}",
                code="bundle-cannot-run",
                fix=error.fix,
            ) from error

    def _create_engine(self, resolution: Resolution, progress: Progress) -> tuple[bytes, EngineManifest]:
        if resolution.chosen_plan is not None:
            return read_bundled_file(
                self.path, self.contents, resolution.chosen_plan.name
            ), resolution.chosen_plan.manifest
        assert resolution.build_target is not None  # noqa: S101  # either a plan or a target is set
        return self._build_engine(resolution.build_target, progress)

    def _build_engine(self, target: Target, progress: Progress) -> tuple[bytes, EngineManifest]:
        _log.warning(
            "note: No plan in %s runs on this machine, so an engine for %s is built.", self.path, target.title
        )
        model = self._read_model()
        info = read_model_info(model)
        if info.precision == "fp32":
            precision = choose_build_precision(target, self.contents)
            info = info.derive(precision=precision, onnx_sha256=self.contents.fp32_sha256)
        return compile_graph(
            lower_graph(target, model, info),
            info,
            target=target,
            planned_int8=count_int8_products(model, matrix_products_only=lacks_int8_convolutions(target)),
            batches=self.contents.batches,
            side=self.contents.side,
            progress=lambda stage, done=0, total=None: progress(stage),
        )

    def _read_model(self) -> "ModelProto":
        with temporary_folder() as folder:
            path = folder / MODEL_NAME
            path.write_bytes(read_bundled_file(self.path, self.contents, MODEL_NAME))
            return read_model(path)


def write_bundle(
    model: str | Path,
    engines: Sequence[str | Path] = (),
    *,
    output: str | Path,
    precision: Precision | None = None,
    batches: Sequence[BatchRange] = (BatchRange(),),
    side: SideRange | None = None,
    note: Callable[[str], None] = _ignore,
) -> Bundle:
    """Pack a model and its plans into one file.

    Args:
        model: An exported FP32 model, or an INT8 model of deploykit quantize.
        engines: Engines made from the same FP32 model; may be empty.
        output: The bundle; an existing bundle is replaced.
        precision: Precision to build an FP32 model in if no plan runs; default FP16.
        batches: Batch sizes to build for in that case.
        side: Image sides to build for in that case, pixels.
        note: Receives a sentence if the bundle cannot be used without a GPU.

    Raises:
        DeployError: The input is invalid, an engine is of another model, or the output exists and is not a
            bundle. Nothing is written.
    """
    pack_bundle(
        Path(model),
        [Path(engine) for engine in engines],
        output=Path(output),
        precision=precision,
        batches=tuple(batches),
        side=side,
        note=note,
    )
    return Bundle(output)


def _cache_name(resolution: Resolution, environment: RuntimeEnvironment) -> str:
    """Return the cached name of a plan, or of what is built."""
    if resolution.chosen_plan is not None:
        return f"{resolution.chosen_plan.manifest.engine_sha256}.engine"
    assert resolution.build_target is not None  # noqa: S101  # either a plan or a target is set
    return cached_engine_name(resolution.build_target, environment.runtimes[resolution.build_target.compiler])
