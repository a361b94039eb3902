"""Differences between a model's configuration and what its engine, or deploykit, requires."""

from collections.abc import Iterator
from pathlib import Path

from deploykit.engine.manifest import EngineManifest
from deploykit.serving.repository.batching import first_unsupported_batch
from deploykit.serving.repository.config import Config, backend_name, config_schema
from deploykit.serving.repository.model_folder import MODEL_PY, choose_backend, loaded_files
from deploykit.serving.repository.tensors import input_dims, triton_type

ConfigTensors = list[tuple[str, str, tuple[int, ...]]]
"""Name, type and dimensions of each tensor."""


def engine_mismatches(config: Config, engine: Path, manifest: EngineManifest) -> Iterator[str]:
    """Yield where a configuration disagrees with its engine, as predicates that follow the engine's name."""
    backends = sorted({choose_backend([manifest], None), "python"})
    if backend_name(config) not in backends:
        yield f"needs backend {' or '.join(backends)}; its configuration says {backend_name(config)}."
    else:
        yield from _file_mismatch(config, MODEL_PY if backend_name(config) == "python" else engine.name)
    input_tensor = (manifest.input.name, triton_type(manifest.input.dtype), input_dims(manifest))
    outputs = [(each.name, triton_type(each.dtype), each.shape) for each in manifest.outputs]
    for verb, configured, expected in (
        ("takes", config.input, [input_tensor]),
        ("returns", config.output, outputs),
    ):
        actual = config_tensors(configured)
        if actual != expected:
            yield _tensor_mismatch(verb, expected, actual)
    largest = max(each.max for each in manifest.batches)
    if not 1 <= config.max_batch_size <= largest:
        yield f"takes batches of up to {largest}; its configuration says {config.max_batch_size}."
    elif config.backend != "python":
        size = first_unsupported_batch(manifest, config.max_batch_size)
        if size is not None:
            yield f"has no profile for batches of {size}, which its configuration allows."
    too_large = [
        size for size in config.dynamic_batching.preferred_batch_size if size > config.max_batch_size
    ]
    if too_large:
        yield f"has a preferred batch size of {too_large[0]} in its configuration, above max_batch_size."


def config_mismatches(config: Config, written: Config) -> Iterator[str]:
    """Yield where the configuration of a decoder or an ensemble disagrees with the one deploykit writes.

    An ensemble may have further tensors.
    """
    if backend_name(config) != backend_name(written):
        yield f"needs backend {backend_name(written)}; its configuration says {backend_name(config)}."
    for file in loaded_files(written):
        yield from _file_mismatch(config, file)
    if config.max_batch_size < 1:
        yield f"needs a max_batch_size of 1 or more; its configuration says {config.max_batch_size}."
    pairs = (("takes", config.input, written.input), ("returns", config.output, written.output))
    for verb, configured, own in pairs:
        actual, expected = config_tensors(configured), config_tensors(own)
        if config.platform == "ensemble":
            common = {name for name, *_ in actual} & {name for name, *_ in expected}
            actual, expected = (
                [each for each in tensors if each[0] in common] for tensors in (actual, expected)
            )
        if sorted(actual) != sorted(expected):
            yield _tensor_mismatch(verb, expected, actual)


def config_tensors(configured: Config) -> ConfigTensors:
    """Return a configuration's inputs or outputs."""
    type_name = config_schema().DataType.Name
    return [(each.name, type_name(each.data_type), tuple(each.dims)) for each in configured]


def describe_tensors(tensors: ConfigTensors) -> str:
    """Return tensors in words, for example `input FP32 (3, 224, 224)`."""
    described = [
        f"{name} {kind.removeprefix('TYPE_')} ({', '.join(map(str, dims))})" for name, kind, dims in tensors
    ]
    return ", ".join(described) or "nothing"


def _tensor_mismatch(verb: str, expected: ConfigTensors, actual: ConfigTensors) -> str:
    return f"{verb} {describe_tensors(expected)}; its configuration says {describe_tensors(actual)}."


def _file_mismatch(config: Config, file: str) -> Iterator[str]:
    if file not in (loaded := loaded_files(config)):
        named = " and ".join(sorted(loaded)) or "no file"
        yield f"needs the model file {file}; its configuration says {named}."
