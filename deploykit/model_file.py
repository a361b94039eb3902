"""ONNX files: reading them safely, and the metadata by which each says what it is."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deploykit.errors import DeployError
from deploykit.preprocessing import Preprocessing

if TYPE_CHECKING:
    from onnx import ModelProto

Precision = Literal["fp32", "fp16", "int8"]
INPUT_NAME, OUTPUT_NAME, BATCH_NAME = "input", "logits", "batch"

_PREFIX = "deploykit."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a model is and where it came from; carried in ONNX metadata and in engine manifests.

    Attributes:
        family: `efficientnet`; `unknown` for a model this package did not export.
        phi: compound coefficient, where the model has one.
        rule: scaling rule that phi went through.
        precision: arithmetic the graph itself spells out.
        preprocessing: what the network expects to have been done to its images.
        weights: `random`, `trained`, or `unknown`.
        weights_sha256: digest of the arrays the model was exported from.
        onnx_sha256: digest of the FP32 model this one was derived from; None for that one itself.
        ranges_sha256: digest of the activation ranges an INT8 model was quantized with.
    """

    family: str
    phi: float | None
    rule: str | None
    precision: Precision
    preprocessing: Preprocessing
    weights: Literal["random", "trained", "unknown"]
    weights_sha256: str | None = None
    onnx_sha256: str | None = None
    ranges_sha256: str | None = None

    def derive(
        self, *, precision: Precision, onnx_sha256: str, ranges_sha256: str | None = None
    ) -> "ModelInfo":
        return replace(self, precision=precision, onnx_sha256=onnx_sha256, ranges_sha256=ranges_sha256)

    def to_metadata(self) -> dict[str, str]:
        fields: dict[str, str | float | None] = {
            "family": self.family,
            "phi": self.phi,
            "rule": self.rule,
            "precision": self.precision,
            "preprocessing": self.preprocessing.to_json(),
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "onnx_sha256": self.onnx_sha256,
            "ranges_sha256": self.ranges_sha256,
        }
        return {_PREFIX + key: str(value) for key, value in fields.items() if value is not None}


def stamp(model: "ModelProto", info: ModelInfo) -> None:
    """Replaces the model's metadata with info."""
    from onnx import helper

    del model.metadata_props[:]
    helper.set_model_props(model, info.to_metadata())


def info_of(model: "ModelProto") -> ModelInfo:
    """What the model says of itself; for one exported elsewhere, what its graph shows."""
    metadata = {
        entry.key.removeprefix(_PREFIX): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(_PREFIX)
    }
    if "family" not in metadata:
        return ModelInfo(
            family="unknown",
            phi=None,
            rule=None,
            precision="fp32",
            preprocessing=Preprocessing(side_px=image_side_px(model)),
            weights="unknown",
        )
    return ModelInfo(
        family=metadata["family"],
        phi=float(metadata["phi"]) if "phi" in metadata else None,
        rule=metadata.get("rule"),
        precision=_one_of_precisions(metadata["precision"]),
        preprocessing=Preprocessing.from_json(metadata["preprocessing"]),
        weights="random" if metadata["weights"] == "random" else "trained",
        weights_sha256=metadata.get("weights_sha256"),
        onnx_sha256=metadata.get("onnx_sha256"),
        ranges_sha256=metadata.get("ranges_sha256"),
    )


def image_side_px(model: "ModelProto") -> int:
    """Side of the square images the model takes.

    Raises:
        DeployError: its input is not one batch of square RGB images, (batch, 3, side, side).
    """
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input]
    match shapes:
        case [[_, 3, height, width]] if height == width and height > 0:
            return int(height)
    raise DeployError(
        f"The model takes {shapes or 'nothing'}, not one batch of square RGB images.",
        fix="give a model whose only input is (batch, 3, side, side) with a fixed side",
    )


def read_model(path: Path) -> "ModelProto":
    """Reads and checks an ONNX file.

    Raises:
        DeployError: there is none, it is not ONNX, or it is cut short.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise DeployError(
            f"There is no model {path}.", fix="deploykit export --phi 3, or give --onnx an existing file"
        )
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        raise DeployError(
            f"{path} is not an ONNX model, or was cut short.", fix="export it again: deploykit export --phi 3"
        ) from error
    return model


def to_bytes(model: "ModelProto") -> bytes:
    """The model serialized; equal models give equal bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _one_of_precisions(text: str) -> Precision:
    match text:
        case "fp16" | "int8" | "fp32":
            return text
    raise DeployError(
        f"The model's metadata names no known precision: {text!r}.", fix="export the model again"
    )
