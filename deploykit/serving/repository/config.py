"""Triton model configurations (config.pbtxt), built from manifests with Triton's own protobuf schema.

A new model option is set here, in `engine_config`; see options.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploykit.engine.manifest import EngineManifest, TensorSpec
from deploykit.serving.repository.batching import Batching
from deploykit.serving.repository.options import Backend
from deploykit.serving.repository.repair import rewrite_steps
from deploykit.serving.repository.tensors import input_dims, is_classifier, triton_type
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

LABELS_FILE = "labels.txt"
PREPROCESSING_FILE = "preprocessing.json"
IMAGE_TENSOR, PREPROCESSED_TENSOR = "image", "prepared"
"""Names of the decoder's input, an encoded image, and of its output."""
DECODER_PROCESSES = 2

Config = Any
"""tritonclient.grpc.model_config_pb2.ModelConfig, or one of its messages; protobuf generates no types."""

_PLATFORMS: dict[Backend, str] = {
    "tensorrt": "tensorrt_plan",
    "onnxruntime": "onnxruntime_onnx",
    "python": "",
}


def config_schema() -> Any:
    """Return the module that protobuf generates from Triton's model_config.proto.

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
    """Return the configuration of an engine's model.

    Args:
        instances: Copies that run at the same time on each GPU.
        threads: Threads of an instance on the CPU; None to let the server choose.
        files: The engine file for each compute capability, for example `7.5`.
        default_file: The engine file for all other GPUs.
    """
    config = config_schema().ModelConfig(
        name=name, backend=backend, platform=_PLATFORMS[backend], max_batch_size=batching.max_batch
    )
    _add_tensor(config.input, manifest.input.name, manifest.input.dtype, input_dims(manifest))
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
    """Return the configuration of the model that decodes images into the engine's input."""
    config = config_schema().ModelConfig(name=name, backend="python", max_batch_size=max_batch)
    _add_bytes(config.input, IMAGE_TENSOR)
    _add_tensor(config.output, PREPROCESSED_TENSOR, manifest.input.dtype, manifest.input.shape)
    config.version_policy.latest.num_versions = 1
    group = config.instance_group.add(count=DECODER_PROCESSES)
    group.kind = type(group).KIND_CPU
    return config


def ensemble_config(
    name: str, manifest: EngineManifest, *, decoder: str, engine: str, max_batch: int
) -> Config:
    """Return the configuration of the ensemble from encoded images to the engine's outputs."""
    config = config_schema().ModelConfig(name=name, platform="ensemble", max_batch_size=max_batch)
    _add_bytes(config.input, IMAGE_TENSOR)
    _add_outputs(config, manifest)
    config.version_policy.latest.num_versions = 1
    decode = config.ensemble_scheduling.step.add(model_name=decoder, model_version=-1)
    decode.input_map[IMAGE_TENSOR] = IMAGE_TENSOR
    decode.output_map[PREPROCESSED_TENSOR] = PREPROCESSED_TENSOR
    infer = config.ensemble_scheduling.step.add(model_name=engine, model_version=-1)
    infer.input_map[manifest.input.name] = PREPROCESSED_TENSOR
    for each in manifest.outputs:
        infer.output_map[each.name] = each.name
    return config


def backend_name(config: Config) -> str:
    """Return a model's backend, or both if its platform belongs to another backend."""
    backends: dict[str, str] = {platform: backend for backend, platform in _PLATFORMS.items() if platform}
    of_platform = backends.get(config.platform, config.platform)
    return " and ".join(dict.fromkeys(filter(None, [config.backend, of_platform]))) or "nothing"


def config_text(config: Config) -> str:
    """Return the text of config.pbtxt."""
    from google.protobuf import text_format

    text: str = text_format.MessageToString(config)
    return text


def read_config(path: Path) -> Config:
    """Read a config.pbtxt with Triton's schema.

    Raises:
        DeployError: The file is missing, or does not follow the schema.
    """
    from google.protobuf import text_format

    try:
        return text_format.Parse(path.read_text(), config_schema().ModelConfig())
    except FileNotFoundError as error:
        raise DeployError(
            f"{path} does not exist.", code="repository-file-missing", fix=rewrite_steps(path.parent)
        ) from error
    except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
        raise DeployError(
            f"{path} is not a valid Triton model configuration: {str(error).rstrip('.')}.",
            code="repository-config-invalid",
            fix=rewrite_steps(path.parent),
        ) from error


def _add_tensor(tensors: Any, name: str, dtype: str, dims: tuple[int, ...]) -> Any:
    data_type = config_schema().DataType.Value(triton_type(dtype))
    return tensors.add(name=name, data_type=data_type, dims=dims)


def _add_bytes(tensors: Any, name: str) -> None:
    tensors.add(name=name, data_type=config_schema().TYPE_STRING, dims=[1])


def _add_outputs(config: Config, manifest: EngineManifest) -> None:
    for each in manifest.outputs:
        output = _add_tensor(config.output, each.name, each.dtype, each.shape)
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
    # With any queue policy, Triton 2.51 now and then delays requests to a single instance by half a second.
    if batching.max_queue is not None:
        dynamic.default_queue_policy.max_queue_size = batching.max_queue


def _add_warm_up(config: Config, manifest: EngineManifest, batching: Batching) -> None:
    """Run one image, and each batch size the engine is tuned for, before the model is ready."""
    dtype = config_schema().DataType.Value(triton_type(manifest.input.dtype))
    tuned = {each.opt for each in manifest.batches} | {1}
    for size in sorted(size for size in tuned if size <= batching.max_batch):
        warm_up = config.model_warmup.add(name=f"batch-{size}", batch_size=size)
        tensor = warm_up.inputs[manifest.input.name]
        tensor.data_type, tensor.zero_data = dtype, True
        tensor.dims.extend(manifest.input.shape)
