"""The files of a model's folder in a Triton model repository."""

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploykit.engine.manifest import EngineManifest, manifest_path
from deploykit.serving.repository.batching import Batching, first_unsupported_batch
from deploykit.serving.repository.config import (
    LABELS_FILE,
    PREPROCESSING_FILE,
    Config,
    backend_name,
    decode_config,
    engine_config,
    ensemble_config,
)
from deploykit.serving.repository.names import (
    DECODER_SUFFIX,
    ENGINE_SUFFIX,
    IMAGE_SUFFIX,
    require_model_name,
)
from deploykit.serving.repository.options import Backend
from deploykit.util.errors import DeployError
from deploykit.util.json_io import to_json

MODEL_PY = "model.py"
ENGINE_SUFFIXES: Mapping[Backend, str] = {
    "tensorrt": ".plan",
    "onnxruntime": ".onnx",
    "python": ENGINE_SUFFIX,
}

_DEFAULT_FILES = {"tensorrt": "model.plan", "onnxruntime": "model.onnx", "python": MODEL_PY}
"""What Triton's backends load if the configuration names no file."""

FileSource = Path | str
"""A file to copy, or a text to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A model as its folder will be written.

    Attributes:
        name: Name of the model and of its folder.
        config: Its configuration, the content of config.pbtxt.
        model_files: Other files of the model's folder.
        version_files: Files of a version's folder.
    """

    name: str
    config: Config
    model_files: Mapping[str, FileSource]
    version_files: Mapping[str, FileSource]


def choose_backend(manifests: Sequence[EngineManifest], requested: Backend | None) -> Backend:
    """Return the Triton backend for engines: the requested one, their own, or Python for engines without one.

    Raises:
        DeployError: The requested backend can't run them.
    """
    (compiler,) = {manifest.target.compiler for manifest in manifests}
    own: Backend = "python" if compiler == "tensorrt-rtx" else compiler
    if requested not in (None, "python", own):
        raise DeployError(
            f"Triton's {requested} backend can't run engines of {manifests[0].target.compiler_title}.",
            code="triton-backend-mismatch",
            fix=f"give --backend {own}, or leave out --backend",
        )
    return requested or own


def engine_model_folder(
    name: str,
    engines: Mapping[Path, EngineManifest],
    *,
    backend: Backend,
    batching: Batching,
    instances: int = 1,
    threads: int | None = None,
) -> ModelFolder:
    """Return the folder of an engine's model.

    Args:
        engines: Engines of one model, each for different GPUs.

    Raises:
        DeployError: No profile covers a batch that the backend would run, two engines are for the same GPU,
            or threads are given though no engine is for the CPU.
    """
    first, *_ = engines.values()
    if threads is not None and not first.target.on_cpu:
        raise DeployError(
            f"--threads would have no effect: {name} is for {first.target.title}.",
            code="option-not-applicable",
            fix="leave out --threads",
        )
    if backend != "python" and (size := first_unsupported_batch(first, batching.max_batch)) is not None:
        raise DeployError(
            f"No profile of {name} covers batches of {size}, which Triton's {backend} backend would run.",
            code="triton-batch-mismatch",
            fix="build the engine with --batch 1,8,64, or give --backend python, which pads batches",
        )
    names = _file_names(engines, backend)
    version_files: dict[str, FileSource] = {}
    for path, file in names.items():
        version_files[file] = path
        version_files[manifest_path(Path(file)).name] = manifest_path(path)
    version_files |= model_py_files(backend)
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
    return ModelFolder(name=name, config=config, model_files=label_files(first), version_files=version_files)


def image_model_folders(
    name: str, manifest: EngineManifest, *, max_batch: int
) -> tuple[ModelFolder, ModelFolder]:
    """Return the decoder of encoded images, and the ensemble of decoder and engine.

    Args:
        name: Name of the engine's model.
        max_batch: Most images in a batch.
    """
    decoder = require_model_name(name + DECODER_SUFFIX)
    ensemble = require_model_name(name + IMAGE_SUFFIX)
    preprocessing = to_json(manifest.model.preprocessing)
    return (
        ModelFolder(
            name=decoder,
            config=decode_config(decoder, manifest, max_batch=max_batch),
            model_files={},
            version_files={MODEL_PY: _model_py("decode_model"), PREPROCESSING_FILE: preprocessing},
        ),
        ModelFolder(
            name=ensemble,
            config=ensemble_config(ensemble, manifest, decoder=decoder, engine=name, max_batch=max_batch),
            model_files=label_files(manifest),
            version_files={},
        ),
    )


def with_max_batch(model: ModelFolder, max_batch: int) -> ModelFolder:
    """Return the model, configured for batches of up to max_batch."""
    config = type(model.config)()
    config.CopyFrom(model.config)
    config.max_batch_size = max_batch
    return replace(model, config=config)


def label_files(manifest: EngineManifest) -> dict[str, FileSource]:
    """Return labels.txt, one class per line, all that Triton's format can hold; {} without labels."""
    labels = manifest.model.labels
    if not labels:
        return {}
    return {LABELS_FILE: "".join(" ".join(label.split()) + "\n" for label in labels)}


def model_py_files(backend: Backend) -> dict[str, FileSource]:
    """Return the program that a backend runs beside the engines; {} except for Python."""
    return {MODEL_PY: _model_py("python_model")} if backend == "python" else {}


def loaded_files(config: Config) -> set[str]:
    """Return the files that Triton loads from a version's folder, where its backend is known."""
    named = {config.default_model_filename, *config.cc_model_filenames.values()} - {""}
    return named or {file for backend, file in _DEFAULT_FILES.items() if backend == backend_name(config)}


def has_content(path: Path, source: FileSource) -> bool:
    """Return whether a file exists and holds what would be written from the source, byte for byte."""
    if not path.is_file():
        return False
    if isinstance(source, Path):
        return filecmp.cmp(source, path, shallow=False)
    return path.read_bytes() == source.encode()


def _file_names(engines: Mapping[Path, EngineManifest], backend: Backend) -> dict[Path, str]:
    suffix = ENGINE_SUFFIXES[backend]
    if len(engines) == 1 and backend != "python":
        return dict.fromkeys(engines, f"model{suffix}")
    names: dict[Path, str] = {}
    for path, manifest in engines.items():
        name = f"model.{manifest.target.label}{suffix}"
        if name in names.values():
            raise DeployError(
                f"Two engines of the same model are for {manifest.target.title}.",
                code="engine-repeated",
                fix="give only one of them",
            )
        names[path] = name
    return names


def _by_capability(engines: Mapping[Path, EngineManifest], names: Mapping[Path, str]) -> dict[str, str]:
    """Return the file for each compute capability, such as `7.5`; {} if there is only one file."""
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
