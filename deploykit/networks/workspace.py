"""Where things land by default, and how one command finds what another one left."""

from pathlib import Path

from deploykit.networks.scaling import FORMULA_PHI_RANGE, Scale, format_phi
from deploykit.util.errors import DeployError

ENGINES = Path("engines")
CALIBRATION = Path("calibration")
MODEL_FILE = "model.onnx"

_SAME_MOMENT_S = 1.0  # copies made together are this close in time: neither is "the newest"


def model_name(
    family: str, phi: float | None, rule: str | None = "published", scale: Scale | None = None
) -> str:
    """`efficientnet-phi3`; the formula's members are told apart: `efficientnet-formula-phi3`.

    Without a phi the scale tells, where it is known: `resnet18-depth2-width1-side224`.
    """
    if phi is not None:
        return f"{family}{'-formula' if rule == 'formula' else ''}-phi{format_phi(phi)}"
    if scale is None:
        return family
    return f"{family}-depth{scale.depth:.4g}-width{scale.width:.4g}-side{scale.side_px}"


def export_path(name: str, output: str | Path | None) -> Path:
    """Where an export goes: engines/NAME/model.onnx, or what -o says (a folder or a .onnx file).

    Raises:
        DeployError: it looks like a file of another kind.
    """
    if output is None:
        return ENGINES / name / MODEL_FILE
    output = Path(output)
    if output.suffix == ".onnx":
        return output
    if output.suffix[1:].isalpha() and not output.is_dir():
        raise DeployError(
            f"{output} is no name for an ONNX model.",
            code="invalid-output-name",
            fix=f"-o {output.stem}.onnx, or name a folder",
        )
    return output / MODEL_FILE


def default_ranges_path(model: Path, name: str) -> Path:
    return CALIBRATION / f"{name if model.name == MODEL_FILE else model.stem}.ranges.json"


def find_model(*, phi: float | None = None, onnx: str | Path | None = None) -> tuple[Path, str | None]:
    """The exported model a command is about.

    Args:
        phi: only models under engines/ with this coefficient.
        onnx: this very file.

    Returns:
        Its path, and a sentence for the user where it was chosen among several.

    Raises:
        DeployError: there is none, or no telling which.
    """
    if onnx is not None:
        if phi is not None:
            raise DeployError(
                "--phi and --onnx both name a model.", code="option-conflict", fix="leave one of them out"
            )
        return Path(onnx), None
    models = sorted(ENGINES.glob(f"*/{MODEL_FILE}"))
    if phi is not None:
        if not FORMULA_PHI_RANGE[0] <= phi <= FORMULA_PHI_RANGE[1]:
            raise DeployError(
                f"There is no model of phi {phi!r}.",
                code="invalid-phi",
                fix="give the --phi of an exported model",
            )
        models = [path for path in models if path.parent.name.endswith(f"-phi{format_phi(phi)}")]
    if not models:
        which = "" if phi is None else f" of phi {format_phi(phi)}"
        raise DeployError(
            f"There is no exported model{which} in {ENGINES}/.",
            code="model-not-found",
            fix=f"deploykit export --phi {format_phi(3 if phi is None else phi)}",
        )
    if len(models) == 1:
        return models[0], None
    *_, second, newest = sorted(models, key=_modified_s)
    if _modified_s(newest) - _modified_s(second) < _SAME_MOMENT_S:
        raise DeployError(
            f"{ENGINES}/ holds {', '.join(path.parent.name for path in models)}, none clearly the newest.",
            code="model-ambiguous",
            fix=f"say which: --onnx {newest}",
        )
    return (
        newest,
        f"{newest} is the newest of {len(models)} exported models; --phi or --onnx chooses another.",
    )


def _modified_s(path: Path) -> float:
    return path.stat().st_mtime
