"""The FP32 model that an artifact was made from: named, or found by its digest."""

from collections.abc import Iterator
from pathlib import Path

from deploykit.accuracy.model_loader import LoadedModel
from deploykit.networks.artifact_paths import ENGINES_FOLDER, MODEL_FILE
from deploykit.util.atomic_files import file_sha256


def find_reference(model: LoadedModel, given: Path | None = None) -> tuple[Path | None, str | None]:
    """The file to compare the model with.

    Args:
        given: take this one.

    Returns:
        Its path, or None; and a sentence for the user where there is none, or where the model was made from
        another than the one given. An FP32 model as exported has none, which needs no sentence.
    """
    wanted = model.info.onnx_sha256
    if given is not None:
        if wanted is not None and _digest(given) not in {wanted, None}:
            return given, f"{model.path} was made from another model than {given}, by its SHA-256."
        return given, None
    if wanted is None:
        if model.is_derived:
            return None, f"{model.path} does not say which FP32 model it was made from; --reference names it."
        return None, None
    found = next((path for path in _candidates(model.path) if _digest(path) == wanted), None)
    if found is not None:
        return found, None
    return None, (
        f"The FP32 model that {model.path} was made from (SHA-256 {wanted[:12]}...) is neither beside it nor "
        f"under {ENGINES_FOLDER}/; --reference names it."
    )


def _candidates(model: Path) -> Iterator[Path]:
    """ONNX files beside the model, then under engines/; those with an export's usual name first."""
    for folder, pattern in ((model.parent, "*.onnx"), (ENGINES_FOLDER, "*/*.onnx")):
        yield from sorted(folder.glob(pattern), key=lambda path: (path.name != MODEL_FILE, path))


def _digest(path: Path) -> str | None:
    """None for what can't be read: it is not for a search to complain about."""
    try:
        return file_sha256(path)
    except OSError:
        return None
