"""Find the FP32 model that an artifact was made from, by its path or its digest."""

from collections.abc import Iterator
from pathlib import Path

from deploykit.accuracy.model_loader import LoadedModel
from deploykit.networks.artifact_paths import ENGINES_FOLDER, MODEL_FILE
from deploykit.util.atomic_files import file_sha256


def find_reference(model: LoadedModel, given: str | Path | None = None) -> tuple[Path | None, str | None]:
    """Find the FP32 file to compare a model with.

    Args:
        model: The model.
        given: The file that the user named, which is returned as it is.

    Returns:
        The path or None, and a note or None. The note says that no reference was found, or that the given
        file is not the one that the model was made from. An exported FP32 model has neither.
    """
    wanted = model.info.onnx_sha256
    if given is not None:
        given = Path(given)
        if wanted is not None and _digest(given) not in {wanted, None}:
            return given, f"{model.path} was not made from {given}: the SHA-256 differs."
        return given, None
    if wanted is None:
        if model.is_derived:
            return None, f"{model.path} does not record its FP32 model. Name it with --reference."
        return None, None
    found = next((path for path in _candidates(model.path) if _digest(path) == wanted), None)
    if found is not None:
        return found, None
    return None, (
        f"The FP32 model that {model.path} was made from (SHA-256 {wanted[:12]}...) is neither next to it "
        f"nor under {ENGINES_FOLDER}/. Name it with --reference."
    )


def _candidates(model: Path) -> Iterator[Path]:
    """Yield ONNX files next to the model, then under engines/, those with an export's default name first."""
    for folder, pattern in ((model.parent, "*.onnx"), (ENGINES_FOLDER, "*/*.onnx")):
        yield from sorted(folder.glob(pattern), key=lambda path: (path.name != MODEL_FILE, path))


def _digest(path: Path) -> str | None:
    """Return the SHA-256, or None for an unreadable file, which a search skips."""
    try:
        return file_sha256(path)
    except OSError:
        return None
