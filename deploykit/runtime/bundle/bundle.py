"""One file for many machines: a model, and plans of it; what runs here is taken, or built once and kept."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.engine.audit.work import int8_products
from deploykit.engine.compile import compile_graph, lower_graph
from deploykit.engine.compilers import COMPILERS
from deploykit.engine.manifest import EngineManifest
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
    build_precision,
    require_buildable_for,
    resolve_plan,
)
from deploykit.runtime.bundle.writer import pack_bundle
from deploykit.runtime.preflight import RuntimeEnvironment, detect_environment
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Bundle", "Resolution", "write_bundle"]

Report = Callable[[str], None]

_log = logging.getLogger(__name__)


class Bundle:
    """An open bundle."""

    def __init__(self, path: str | Path) -> None:
        """Reads what is in it.

        Raises:
            DeployError: it is no bundle, or was altered or cut short.
        """
        self.path = Path(path)
        self.contents, digest = read_bundle_contents(self.path)
        self._cache = EngineCache(digest[:32])

    def resolve(self, machine: RuntimeEnvironment | None = None) -> Resolution:
        """What it would do on a machine, by default on this one.

        Raises:
            DeployError: a file of it was altered: none is trusted then.
        """
        verify_bundle_files(self.path, self.contents)
        machine = machine or detect_environment()
        found = resolve_plan(self.contents, machine)
        kept = self._kept(found, machine)
        unkept = None if kept else self._cache.why_unwritable()
        refusal = None if kept else self._refusal(found, machine, unkept)
        return replace(found, cached_path=kept, uncacheable_reason=unkept, error=refusal)

    def prepare_engine(self, *, progress: Report = lambda sentence: None) -> Path:
        """An engine that runs here: unpacked, or built; in the user's cache folder, for the next time too.

        Where that can't be written, it is in a temporary folder until this process ends.

        Args:
            progress: told what is going on, where it takes long.

        Raises:
            DeployError: a file of it was altered, or nothing of it runs here and nothing can be built.
        """
        machine = detect_environment()
        found = self.resolve(machine)
        if found.fallback_reason is not None:
            _log.warning("note: %s runs on the CPU here: %s", self.path, found.fallback_reason)
        if found.error is not None:
            raise found.error
        if found.cached_path is not None:
            return found.cached_path
        return self._cache.obtain(_name(found, machine), machine, lambda: self._made(found, progress))

    def _kept(self, found: Resolution, machine: RuntimeEnvironment) -> Path | None:
        if found.build_target is not None and found.build_target.compiler not in machine.runtimes:
            return None
        return self._cache.find(_name(found, machine), machine)

    def _refusal(
        self, found: Resolution, machine: RuntimeEnvironment, unkept: str | None
    ) -> DeployError | None:
        """Why nothing runs on a machine where nothing is kept."""
        try:
            if found.build_target is not None:
                self._require_build(found.build_target, machine)
            if found.build_target is not None or unkept is not None:
                require_temporary_folder()
        except DeployError as error:
            return error
        return None

    def _require_build(self, target: Target, machine: RuntimeEnvironment) -> None:
        if target.compiler not in machine.runtimes:
            facts = COMPILERS[target.compiler]
            raise DeployError(
                f"No plan in {self.path} runs here, and {facts.title} is missing to build one.",
                code="bundle-cannot-run",
                fix=facts.install,
            )
        try:
            require_buildable_for(self.contents, target)
        except DeployError as error:
            raise DeployError(
                f"No plan in {self.path} runs here, and none can be built for {target.title}: "
                f"{error.problem}",
                code="bundle-cannot-run",
                fix=error.fix,
            ) from error

    def _made(self, found: Resolution, progress: Report) -> tuple[bytes, EngineManifest]:
        if found.chosen_plan is not None:
            return read_bundled_file(
                self.path, self.contents, found.chosen_plan.name
            ), found.chosen_plan.manifest
        assert found.build_target is not None  # noqa: S101  # one of the two
        return self._built(found.build_target, progress)

    def _built(self, target: Target, progress: Report) -> tuple[bytes, EngineManifest]:
        _log.warning("note: No plan in %s runs here: building one for %s.", self.path, target.title)
        model = self._model()
        info = read_model_info(model)
        if info.precision == "fp32":
            precision = build_precision(target, self.contents)
            info = info.derive(precision=precision, onnx_sha256=self.contents.fp32_sha256)
        return compile_graph(
            lower_graph(target, model, info),
            info,
            target=target,
            planned_int8=int8_products(model, matrices_alone=lacks_int8_convolutions(target)),
            batches=self.contents.batches,
            side=self.contents.side,
            progress=progress,
        )

    def _model(self) -> "ModelProto":
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
    note: Report = lambda sentence: None,
) -> Bundle:
    """Packs a model and plans of it into one file.

    Args:
        model: an exported FP32 model, or an INT8 one of deploykit quantize.
        engines: made from the same FP32 model; may be none.
        output: the bundle; one that is there is replaced.
        precision: what to build of an FP32 model where no plan runs; default FP16.
        batches, side: sizes to build for there.
        note: told where nothing will be built.

    Raises:
        DeployError: bad input, engines of another model, or an output that is there and is no bundle;
            nothing is written.
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


def _name(found: Resolution, machine: RuntimeEnvironment) -> str:
    """What is kept of a plan, or of what is built."""
    if found.chosen_plan is not None:
        return f"{found.chosen_plan.manifest.engine_sha256}.engine"
    assert found.build_target is not None  # noqa: S101  # one of the two
    return cached_engine_name(found.build_target, machine.runtimes[found.build_target.compiler])
