"""Default paths of models and ranges, and how one command finds what another one wrote."""

from pathlib import Path

from deploykit.networks.scaling import FORMULA_PHI_RANGE, Scale, format_phi
from deploykit.util.errors import DeployError

ENGINES_FOLDER = Path("engines")
"""Where exports and engines are written by default."""

CALIBRATION_FOLDER = Path("calibration")
"""Where ranges are written by default, and where calibration looks for images."""

MODEL_FILE = "model.onnx"

_SAME_TIME_S = 1.0  # files copied together are at most this far apart: none of them is the newest


def model_name(
    family: str, phi: float | None, rule: str | None = "published", scale: Scale | None = None
) -> str:
    """Return the name of a model's folder and files.

    `efficientnet-phi3` under the published rule, `efficientnet-formula-phi3` under the formula; without a phi
    the scale, `resnet18-depth2-width1-side224`, or else the family alone.
    """
    if phi is not None:
        return f"{family}{'-formula' if rule == 'formula' else ''}-phi{format_phi(phi)}"
    if scale is None:
        return family
    return f"{family}-depth{scale.depth:.4g}-width{scale.width:.4g}-side{scale.side_px}"


def export_path(name: str, output: str | Path | None) -> Path:
    """Return the path of an export: engines/NAME/model.onnx, or `output`, a folder or a .onnx file.

    Raises:
        DeployError: `output` looks like a file of another kind.
    """
    if output is None:
        return ENGINES_FOLDER / name / MODEL_FILE
    output = Path(output)
    if output.suffix == ".onnx":
        return output
    if output.suffix[1:].isalpha() and not output.is_dir():
        raise DeployError(
            f"{output} does not end in .onnx and is not a folder.",
            code="invalid-output-name",
            fix=f"-o {output.stem}.onnx, or name a folder",
        )
    return output / MODEL_FILE


def default_ranges_path(model: str | Path, name: str) -> Path:
    """Return the default path of a model's activation ranges: calibration/NAME.ranges.json.

    Args:
        model: Path of the ONNX file. A file that is not called model.onnx gives the ranges its own name.
        name: The model's name, see model_name.
    """
    model = Path(model)
    return CALIBRATION_FOLDER / f"{name if model.name == MODEL_FILE else model.stem}.ranges.json"


def find_model(*, phi: float | None = None, onnx: str | Path | None = None) -> tuple[Path, str | None]:
    """Find the exported model that a command should use.

    Args:
        phi: Search engines/ only for models with this coefficient.
        onnx: Use this file instead of searching.

    Returns:
        The path, and a note for the user if the newest of several models was chosen.

    Raises:
        DeployError: No model exists, or several do and none is clearly the newest.
    """
    if onnx is not None:
        if phi is not None:
            raise DeployError(
                "--phi and --onnx both select a model.", code="option-conflict", fix="remove one of them"
            )
        return Path(onnx), None
    models = _exported_models(phi)
    if len(models) == 1:
        return models[0], None
    *_, second, newest = sorted(models, key=_modified_s)
    if _modified_s(newest) - _modified_s(second) < _SAME_TIME_S:
        names = ", ".join(path.parent.name for path in models)
        raise DeployError(
            f"{ENGINES_FOLDER}/ contains {names}, and none is clearly the newest.",
            code="model-ambiguous",
            fix=f"choose one, for example --onnx {newest}",
        )
    note = f"Using {newest}, the newest of {len(models)} exported models (override with --phi or --onnx)."
    return newest, note


def _exported_models(phi: float | None) -> list[Path]:
    """Return the models in the engines folder, at least one."""
    models = sorted(ENGINES_FOLDER.glob(f"*/{MODEL_FILE}"))
    if phi is not None:
        low, high = FORMULA_PHI_RANGE
        if not low <= phi <= high:
            raise DeployError(
                f"phi must be between {low:g} and {high:g}, not {phi!r}.",
                code="invalid-phi",
                fix="give the --phi of an exported model",
            )
        models = [path for path in models if path.parent.name.endswith(f"-phi{format_phi(phi)}")]
    if not models:
        which = "" if phi is None else f" with phi {format_phi(phi)}"
        raise DeployError(
            f"{ENGINES_FOLDER}/ contains no exported model{which}.",
            code="model-not-found",
            fix=f"deploykit export --phi {format_phi(3 if phi is None else phi)}",
        )
    return models


def _modified_s(path: Path) -> float:
    return path.stat().st_mtime
