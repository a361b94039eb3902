"""What a model's configuration says otherwise than it should."""

from collections.abc import Iterator
from pathlib import Path

from deploykit.engine.manifest import EngineManifest
from deploykit.serving.repository.batching import missing_batch
from deploykit.serving.repository.config import Config, run_by, schema
from deploykit.serving.repository.layout import MODEL_FILE, backend_for, loaded_files
from deploykit.serving.repository.tensors import input_dims, triton_type

Tensors = list[tuple[str, str, tuple[int, ...]]]
"""Name, type and dimensions of each."""


def differs(config: Config, engine: Path, manifest: EngineManifest) -> Iterator[str]:
    """What it says otherwise than the engine, in words that follow the engine's name."""
    backends = sorted({backend_for([manifest], None), "python"})
    if run_by(config) not in backends:
        yield f"is run by {' or '.join(backends)}; its configuration says {run_by(config)}."
    else:
        yield from _loads_otherwise(config, MODEL_FILE if run_by(config) == "python" else engine.name)
    taken = (manifest.input.name, triton_type(manifest.input.dtype), input_dims(manifest))
    given = [(each.name, triton_type(each.dtype), each.shape) for each in manifest.outputs]
    for verb, configured, own in (("takes", config.input, [taken]), ("gives", config.output, given)):
        found = tensors_of(configured)
        if found != own:
            yield f"{verb} {words(own)}; its configuration says {words(found)}."
    largest = max(each.max for each in manifest.batches)
    if not 1 <= config.max_batch_size <= largest:
        yield f"takes batches of up to {largest}; its configuration says {config.max_batch_size}."
    elif config.backend != "python" and (size := missing_batch(manifest, config.max_batch_size)) is not None:
        yield f"has no profile for batches of {size}, which its configuration allows."
    late = [size for size in config.dynamic_batching.preferred_batch_size if size > config.max_batch_size]
    if late:
        yield f"is preferred in batches of {late[0]}, above its configuration's max_batch_size."


def differs_around(config: Config, written: Config) -> Iterator[str]:
    """Of a decoder, or of an ensemble, which may lead to other tensors than were written for it."""
    if run_by(config) != run_by(written):
        yield f"is run by {run_by(written)}; its configuration says {run_by(config)}."
    for file in loaded_files(written):
        yield from _loads_otherwise(config, file)
    if config.max_batch_size < 1:
        yield f"takes batches; its configuration says {config.max_batch_size}."
    pairs = (("takes", config.input, written.input), ("gives", config.output, written.output))
    for verb, configured, own in pairs:
        found, wanted = tensors_of(configured), tensors_of(own)
        if config.platform == "ensemble":
            names = {name for name, *_ in found} & {name for name, *_ in wanted}
            found, wanted = ([each for each in tensors if each[0] in names] for tensors in (found, wanted))
        if sorted(found) != sorted(wanted):
            yield f"{verb} {words(wanted)}; its configuration says {words(found)}."


def tensors_of(configured: Config) -> Tensors:
    """Of a configuration's inputs or outputs."""
    return [(each.name, schema().DataType.Name(each.data_type), tuple(each.dims)) for each in configured]


def words(tensors: Tensors) -> str:
    named = [
        f"{name} {kind.removeprefix('TYPE_')} ({', '.join(map(str, dims))})" for name, kind, dims in tensors
    ]
    return ", ".join(named) or "nothing"


def _loads_otherwise(config: Config, file: str) -> Iterator[str]:
    if file not in (loaded := loaded_files(config)):
        yield f"is loaded through {file}; its configuration says {' and '.join(sorted(loaded)) or 'nothing'}."
