"""Triton's model configurations, made from manifests through Triton's own protobuf schema."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from deploykit.engine.manifest import EngineManifest, TensorSpec
from deploykit.serving.repository.batching import Batching
from deploykit.serving.repository.repair import write_anew
from deploykit.serving.repository.tensors import input_dims, is_classifier, triton_type
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

Backend = Literal["tensorrt", "onnxruntime", "python"]
BACKENDS: tuple[Backend, ...] = ("tensorrt", "onnxruntime", "python")

LABELS_FILE = "labels.txt"
IMAGE, PREPARED = "image", "prepared"
RECIPE_FILE = "preprocessing.json"
"""What the models around an engine call an encoded image, and what they make of it."""
DECODERS = 2  # processes that decode images

Config = Any
"""tritonclient.grpc.model_config_pb2.ModelConfig, which has no types."""

_PLATFORMS: dict[Backend, str] = {
    "tensorrt": "tensorrt_plan",
    "onnxruntime": "onnxruntime_onnx",
    "python": "",
}


def schema() -> Any:
    """The module that protobuf's compiler made of Triton's model_config.proto.

    Raises:
        DeployError: tritonclient is not installed.
    """
    return require("tritonclient.grpc.model_config_pb2", extra="serve")


def engine_config(
    name: str,
    manifest: EngineManifest,
    *,
    backend: Backend,
    batching: Batching,
    instances: int = 1,
    threads: int | None = None,
    files: Mapping[str, str] | None = None,
    default_file: str = "",
) -> Config:
    """Of the model that is the engine itself.

    Args:
        instances: how many run at the same time, a GPU.
        threads: of an instance on the CPU; None leaves it to the server.
        files: which file is for GPUs of which compute capability, as `7.5`.
        default_file: for all others.
    """
    config = schema().ModelConfig(
        name=name, backend=backend, platform=_PLATFORMS[backend], max_batch_size=batching.max_batch
    )
    _add(config.input, manifest.input.name, manifest.input.dtype, input_dims(manifest))
    _add_outputs(config, manifest)
    config.version_policy.latest.num_versions = 1
    config.default_model_filename = default_file
    config.cc_model_filenames.update(files or {})
    group = config.instance_group.add(count=instances)
    group.kind = type(group).KIND_CPU if manifest.target.on_cpu else type(group).KIND_GPU
    if backend == "tensorrt" and len(manifest.batches) > 1:
        group.profile.extend(map(str, range(len(manifest.batches))))
    if threads is not None:
        key = "threads" if backend == "python" else "intra_op_thread_count"
        config.parameters[key].string_value = str(threads)
    _add_batching(config, batching)
    _add_warm_up(config, manifest, batching)
    return config


def decode_config(name: str, manifest: EngineManifest, *, max_batch: int) -> Config:
    """Of the model that makes the engine's input of encoded images."""
    config = schema().ModelConfig(name=name, backend="python", max_batch_size=max_batch)
    _add_bytes(config.input, IMAGE)
    _add(config.output, PREPARED, manifest.input.dtype, manifest.input.shape)
    config.version_policy.latest.num_versions = 1
    group = config.instance_group.add(count=DECODERS)
    group.kind = type(group).KIND_CPU
    return config


def ensemble_config(
    name: str, manifest: EngineManifest, *, decoder: str, engine: str, max_batch: int
) -> Config:
    """Of the model that takes encoded images and gives the engine's answers."""
    config = schema().ModelConfig(name=name, platform="ensemble", max_batch_size=max_batch)
    _add_bytes(config.input, IMAGE)
    _add_outputs(config, manifest)
    config.version_policy.latest.num_versions = 1
    decode = config.ensemble_scheduling.step.add(model_name=decoder, model_version=-1)
    decode.input_map[IMAGE] = IMAGE
    decode.output_map[PREPARED] = PREPARED
    infer = config.ensemble_scheduling.step.add(model_name=engine, model_version=-1)
    infer.input_map[manifest.input.name] = PREPARED
    for each in manifest.outputs:
        infer.output_map[each.name] = each.name
    return config


def run_by(config: Config) -> str:
    """Its backend; where its platform is another backend's, both."""
    backends: dict[str, str] = {platform: backend for backend, platform in _PLATFORMS.items() if platform}
    of_platform = backends.get(config.platform, config.platform)
    return " and ".join(dict.fromkeys(filter(None, [config.backend, of_platform]))) or "nothing"


def to_text(config: Config) -> str:
    """As config.pbtxt has it."""
    from google.protobuf import text_format

    text: str = text_format.MessageToString(config)
    return text


def read_config(path: Path) -> Config:
    """A config.pbtxt, by Triton's schema.

    Raises:
        DeployError: there is none, or it says something that the schema doesn't know.
    """
    from google.protobuf import text_format

    try:
        return text_format.Parse(path.read_text(), schema().ModelConfig())
    except FileNotFoundError as error:
        raise DeployError(
            f"There is no {path}.", code="repository-file-missing", fix=write_anew(path.parent)
        ) from error
    except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
        raise DeployError(
            f"{path} is no configuration of Triton's: {str(error).rstrip('.')}.",
            code="repository-config-invalid",
            fix=write_anew(path.parent),
        ) from error


def _add(tensors: Any, name: str, dtype: str, dims: tuple[int, ...]) -> Any:
    return tensors.add(name=name, data_type=schema().DataType.Value(triton_type(dtype)), dims=dims)


def _add_bytes(tensors: Any, name: str) -> None:
    tensors.add(name=name, data_type=schema().TYPE_STRING, dims=[1])


def _add_outputs(config: Config, manifest: EngineManifest) -> None:
    for each in manifest.outputs:
        output = _add(config.output, each.name, each.dtype, each.shape)
        if _has_labels(manifest, each):
            output.label_filename = LABELS_FILE


def _has_labels(manifest: EngineManifest, output: TensorSpec) -> bool:
    return is_classifier(manifest) and len(manifest.model.labels) == output.shape[0]


def _add_batching(config: Config, batching: Batching) -> None:
    if not batching.dynamic:
        return
    dynamic = config.dynamic_batching
    dynamic.preferred_batch_size.extend(batching.preferred)
    dynamic.max_queue_delay_microseconds = batching.delay_us
    # With any queue policy Triton 2.51 lets requests to a single instance wait half a second, now and then.
    if batching.max_queue is not None:
        dynamic.default_queue_policy.max_queue_size = batching.max_queue


def _add_warm_up(config: Config, manifest: EngineManifest, batching: Batching) -> None:
    """A model is ready once it has run these: each batch it is tuned for, and one image."""
    dtype = schema().DataType.Value(triton_type(manifest.input.dtype))
    tuned = {each.opt for each in manifest.batches} | {1}
    for size in sorted(size for size in tuned if size <= batching.max_batch):
        warm_up = config.model_warmup.add(name=f"batch-{size}", batch_size=size)
        given = warm_up.inputs[manifest.input.name]
        given.data_type, given.zero_data = dtype, True
        given.dims.extend(manifest.input.shape)
