"""Model descriptions: what a model is and how it was made, in ONNX metadata and engine manifests."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from deploykit.data.preprocessing import Preprocessing
from deploykit.networks.scaling import FORMULA_PHI_RANGE, Rule, Scale
from deploykit.onnx_tools.nms import Nms
from deploykit.onnx_tools.uint8_input import without_uint8_input
from deploykit.util.errors import DeployError
from deploykit.util.json_io import from_json, from_strings, to_json
from deploykit.util.types import FAMILY_NAME, Precision

if TYPE_CHECKING:
    from onnx import ModelProto

_PREFIX = "deploykit."
PositiveMultiple = Annotated[float, Meta(gt=0)]
"""A depth or width, as a multiple of the baseline's."""

CompoundCoefficient = Annotated[float, Meta(ge=FORMULA_PHI_RANGE[0], le=FORMULA_PHI_RANGE[1])]
"""A compound coefficient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a model is and how it was made, as stored in ONNX metadata and engine manifests.

    Attributes:
        family: `efficientnet`, ...; `unknown` for a model that deploykit did not export. Part of file names.
        phi: Compound coefficient, if the model has one.
        rule: Scaling rule that phi went through.
        precision: Arithmetic that the graph itself specifies.
        preprocessing: How images are prepared for the network.
        weights: `random`, `trained`, or `unknown`.
        input_type: `uint8` if the graph normalizes its images itself, see onnx_tools.uint8_input.
        nms: Settings of non-maximum suppression, if the graph does it.
        depth: Blocks as a multiple of the baseline's; None if unknown.
        width: Channels as a multiple of the baseline's; None if unknown.
        labels: Class names in the order of the outputs; () if unknown.
        weights_sha256: Digest of the arrays the model was exported from.
        onnx_sha256: Digest of the FP32 model this one was derived from; None for the FP32 model itself.
        ranges_sha256: Digest of the activation ranges that an INT8 model was quantized with.
    """

    family: Annotated[str, Meta(pattern=FAMILY_NAME)]
    phi: CompoundCoefficient | None
    rule: Rule | None
    precision: Precision
    preprocessing: Preprocessing
    weights: Literal["random", "trained", "unknown"]
    input_type: Literal["float32", "uint8"] = "float32"
    nms: Nms | None = None
    depth: PositiveMultiple | None = None
    width: PositiveMultiple | None = None
    labels: tuple[str, ...] = ()
    weights_sha256: str | None = None
    onnx_sha256: str | None = None
    ranges_sha256: str | None = None

    @property
    def scale(self) -> Scale | None:
        """How far the baseline was scaled; None if unknown."""
        if self.depth is None or self.width is None:
            return None
        return Scale(depth=self.depth, width=self.width, side_px=self.preprocessing.side_px)

    def derive(
        self, *, precision: Precision, onnx_sha256: str, ranges_sha256: str | None = None
    ) -> "ModelInfo":
        """Return the description of a model derived from this one, at another precision."""
        return replace(self, precision=precision, onnx_sha256=onnx_sha256, ranges_sha256=ranges_sha256)

    def to_metadata(self) -> dict[str, str]:
        """Return the description as ONNX metadata."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["preprocessing"] = to_json(self.preprocessing, indent=0)
        values["nms"] = to_json(self.nms, indent=0) if self.nms else None
        values["labels"] = to_json(self.labels, indent=0) if self.labels else None
        return {_PREFIX + key: str(value) for key, value in values.items() if value is not None}


def set_model_info(model: "ModelProto", info: ModelInfo) -> None:
    """Replace the model's metadata with a description."""
    from onnx import helper

    helper.set_model_props(model, info.to_metadata())


def read_model_info(model: "ModelProto") -> ModelInfo:
    """Read a model's description from its metadata, or infer it from the graph of a model exported elsewhere.

    Raises:
        DeployError: Its input is not a batch of square RGB images, or its metadata were altered.
    """
    side_px = input_side_px(without_uint8_input(model))
    texts: dict[str, object] = {
        entry.key.removeprefix(_PREFIX): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(_PREFIX)
    }
    if not texts:
        return ModelInfo(
            family="unknown",
            phi=None,
            rule=None,
            precision="fp32",
            preprocessing=Preprocessing(side_px=side_px),
            weights="unknown",
        )
    try:
        texts["preprocessing"] = from_json(str(texts["preprocessing"]), Preprocessing)
        if "nms" in texts:
            texts["nms"] = from_json(str(texts["nms"]), Nms)
        if "labels" in texts:
            texts["labels"] = from_json(str(texts["labels"]), list[str])
        info = from_strings({"phi": None, "rule": None, **texts}, ModelInfo)
        if info.preprocessing.side_px != side_px:
            raise ValueError("its side is not the graph's")
    except (ValueError, KeyError) as error:
        raise DeployError(
            f"The model's deploykit metadata is invalid: {error}.",
            code="model-metadata-invalid",
            fix="export the model again",
        ) from error
    return info


def count_classes(model: "ModelProto") -> int | None:
    """Return the number of classes, or None if the graph does not fix it."""
    dims = model.graph.output[0].type.tensor_type.shape.dim
    return dims[1].dim_value or None if len(dims) == 2 else None


def require_classifier(path: str | Path, model: "ModelProto", *, fix: str) -> None:
    """Check that a model has a single output, logits.

    Args:
        path: Its path, for the message.
        model: The model.
        fix: The fix to suggest.

    Raises:
        DeployError: It has several outputs.
    """
    names = [value.name for value in model.graph.output]
    if len(names) > 1:
        raise not_a_classifier(path, names, fix=fix)


def not_a_classifier(path: str | Path, outputs: Sequence[str], *, fix: str) -> DeployError:
    """Return the error for a model whose outputs are not logits."""
    return DeployError(
        f"{path} is not a classifier: its outputs are {' and '.join(outputs)}, which have no top-1.",
        code="not-a-classifier",
        fix=fix,
    )


def require_fp32(path: str | Path, info: ModelInfo) -> None:
    """Check that a model is still in FP32.

    Raises:
        DeployError: It was converted to another precision.
    """
    if info.precision != "fp32":
        raise DeployError(
            f"{path} is already {info.precision.upper()}.",
            code="model-not-fp32",
            fix="give the FP32 model it was made from",
        )


def input_side_px(model: "ModelProto") -> int:
    """Return the side of the square images that a model takes, pixels.

    Raises:
        DeployError: Its input is not a batch, of any size, of square RGB images in FP32.
    """
    from onnx import TensorProto

    match [value.type.tensor_type for value in model.graph.input]:
        case [tensor]:
            shape = [dim.dim_value for dim in tensor.shape.dim]  # 0 if dynamic
            if (
                tensor.elem_type == TensorProto.FLOAT
                and shape[:2] == [0, 3]
                and shape[2:] == [shape[-1]] * 2
                and shape[-1] > 0
            ):
                return int(shape[-1])
    shown = [
        (value.name, TensorProto.DataType.Name(value.type.tensor_type.elem_type), _shape_text(value))
        for value in model.graph.input
    ]
    raise DeployError(
        f"The model's input must be square RGB images, not {', '.join(map(' '.join, shown)) or 'nothing'}.",
        code="model-input-unsupported",
        fix="give a model with one FLOAT input, (batch, 3, side, side), with dynamic batch and fixed side",
    )


def _shape_text(value: object) -> str:
    dims = value.type.tensor_type.shape.dim  # type: ignore[attr-defined]  # onnx.ValueInfoProto has no types
    return (
        "(" + ", ".join(str(dim.dim_value) if dim.dim_value else dim.dim_param or "?" for dim in dims) + ")"
    )
