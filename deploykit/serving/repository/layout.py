"""What goes into the folders of a Triton model repository, for engines of one model."""

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploykit.engine.manifest import EngineManifest, manifest_path
from deploykit.serving.repository.batching import Batching, missing_batch
from deploykit.serving.repository.config import (
    LABELS_FILE,
    RECIPE_FILE,
    Backend,
    Config,
    decode_config,
    engine_config,
    ensemble_config,
    run_by,
)
from deploykit.serving.repository.names import DECODER_SUFFIX, ENGINE_SUFFIX, IMAGE_SUFFIX, require_name
from deploykit.util.errors import DeployError
from deploykit.util.json_io import to_json

MODEL_FILE = "model.py"
SUFFIXES: Mapping[Backend, str] = {"tensorrt": ".plan", "onnxruntime": ".onnx", "python": ENGINE_SUFFIX}
"""Of the engines' files."""

_FILES = {"tensorrt": "model.plan", "onnxruntime": "model.onnx", "python": MODEL_FILE}
"""What Triton's backends load where a configuration names nothing."""

Source = Path | str
"""A file to copy, or a text to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A model as its folder has it.

    Attributes:
        beside: files of the model's own folder, besides config.pbtxt.
        version: files of a version's folder.
    """

    name: str
    config: Config
    beside: Mapping[str, Source]
    version: Mapping[str, Source]


def backend_for(manifests: Sequence[EngineManifest], asked: Backend | None) -> Backend:
    """What runs engines in Triton: their own backend, or Python for all that have none.

    Raises:
        DeployError: that one can't run them.
    """
    (compiler,) = {manifest.target.compiler for manifest in manifests}
    own: Backend = "python" if compiler == "tensorrt-rtx" else compiler
    if asked not in (None, "python", own):
        raise DeployError(
            f"Triton's {asked} backend runs no engines of {manifests[0].target.compiler_title}.",
            code="triton-backend-mismatch",
            fix=f"take --backend {own}, or leave it out",
        )
    return asked or own


def engine_folder(
    name: str,
    engines: Mapping[Path, EngineManifest],
    *,
    backend: Backend,
    batching: Batching,
    instances: int = 1,
    threads: int | None = None,
) -> ModelFolder:
    """Of engines of one model, each for other GPUs.

    Raises:
        DeployError: the backend can't put requests together for them, two are for the same GPUs, or threads
            are asked for though none is for the CPU.
    """
    first, *_ = engines.values()
    if threads is not None and not first.target.on_cpu:
        raise DeployError(
            f"--threads would do nothing: {name} is for {first.target.title}.",
            code="option-not-applicable",
            fix="leave out --threads",
        )
    if backend != "python" and (size := missing_batch(first, batching.max_batch)) is not None:
        raise DeployError(
            f"The engine's profiles hold no batch of {size}, which Triton's {backend} backend would run.",
            code="triton-batch-mismatch",
            fix="build it with --batch 1,8,64, or give --backend python, which fills batches up",
        )
    names = _file_names(engines, backend)
    version: dict[str, Source] = {}
    for path, file in names.items():
        version[file] = path
        version[manifest_path(Path(file)).name] = manifest_path(path)
    version |= engine_program(backend)
    default, by_capability = "", {}
    if backend != "python":
        default, by_capability = next(iter(names.values())), _by_capability(engines, names)
    config = engine_config(
        name,
        first,
        backend=backend,
        batching=batching,
        instances=instances,
        threads=threads,
        files=by_capability,
        default_file=default,
    )
    return ModelFolder(name=name, config=config, beside=labels_file(first), version=version)


def image_folders(name: str, manifest: EngineManifest, *, max_batch: int) -> tuple[ModelFolder, ModelFolder]:
    """What takes encoded images for an engine: the decoder, and the ensemble of both."""
    decoder, ensemble = require_name(name + DECODER_SUFFIX), require_name(name + IMAGE_SUFFIX)
    recipe = to_json(manifest.model.preprocessing)
    return (
        ModelFolder(
            name=decoder,
            config=decode_config(decoder, manifest, max_batch=max_batch),
            beside={},
            version={MODEL_FILE: _model_py("decode_model"), RECIPE_FILE: recipe},
        ),
        ModelFolder(
            name=ensemble,
            config=ensemble_config(ensemble, manifest, decoder=decoder, engine=name, max_batch=max_batch),
            beside=labels_file(manifest),
            version={},
        ),
    )


def keeping_to(model: ModelFolder, max_batch: int) -> ModelFolder:
    """The model, which takes so many images at once."""
    config = type(model.config)()
    config.CopyFrom(model.config)
    config.max_batch_size = max_batch
    return replace(model, config=config)


def labels_file(manifest: EngineManifest) -> dict[str, Source]:
    """A line a class, which is all that Triton's file of them can hold."""
    labels = manifest.model.labels
    if not labels:
        return {}
    return {LABELS_FILE: "".join(" ".join(label.split()) + "\n" for label in labels)}


def engine_program(backend: Backend) -> dict[str, Source]:
    """What a backend runs, beside the engines."""
    return {MODEL_FILE: _model_py("python_model")} if backend == "python" else {}


def loaded_files(config: Config) -> set[str]:
    """What Triton loads from a version's folder, as far as that is known of a backend."""
    named = {config.default_model_filename, *config.cc_model_filenames.values()} - {""}
    return named or {file for backend, file in _FILES.items() if backend == run_by(config)}


def is_written(path: Path, source: Source) -> bool:
    """Whether a file is there and is what would be written from the source, byte for byte."""
    if not path.is_file():
        return False
    if isinstance(source, Path):
        return filecmp.cmp(source, path, shallow=False)
    return path.read_bytes() == source.encode()


def _file_names(engines: Mapping[Path, EngineManifest], backend: Backend) -> dict[Path, str]:
    suffix = SUFFIXES[backend]
    if len(engines) == 1 and backend != "python":
        return dict.fromkeys(engines, f"model{suffix}")
    names: dict[Path, str] = {}
    for path, manifest in engines.items():
        name = f"model.{manifest.target.label}{suffix}"
        if name in names.values():
            raise DeployError(
                f"Two engines of one model are for {manifest.target.title}.",
                code="engine-repeated",
                fix="give one of them",
            )
        names[path] = name
    return names


def _by_capability(engines: Mapping[Path, EngineManifest], names: Mapping[Path, str]) -> dict[str, str]:
    """`7.5` -> the file for GPUs of that compute capability, where there is more than one file."""
    if len(engines) == 1:
        return {}
    sms = {path: manifest.target.sm for path, manifest in engines.items()}
    return {f"{sm // 10}.{sm % 10}": names[path] for path, sm in sms.items() if sm is not None}


def _model_py(module: str) -> str:
    return (
        f'"""Run by Triton\'s Python backend, whose Python needs deploykit."""\n\n'
        f"from deploykit.serving.{module} import TritonPythonModel\n\n"
        '__all__ = ["TritonPythonModel"]\n'
    )
