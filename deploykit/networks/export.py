"""A network -> model.onnx, checked against torch."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploykit.data.preprocessing import NORMALIZATIONS, Normalization, Preprocessing
from deploykit.networks.architecture.network import Network
from deploykit.networks.artifact_paths import export_path
from deploykit.networks.checkpoints.checkpoint_match import match_checkpoint
from deploykit.networks.checkpoints.load import load_weights
from deploykit.networks.checkpoints.recognize import require_complete_match
from deploykit.networks.checkpoints.sources.registry import SourceName
from deploykit.networks.checkpoints.tensor_match import require_tensor_match
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.member import Member, choose_member
from deploykit.networks.model_info import ModelInfo, read_model_info
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.networks.random_weights import random_weights
from deploykit.networks.scaling import Rule
from deploykit.onnx_tools.model_io import INPUT_NAME, read_model, to_bytes
from deploykit.onnx_tools.nms import BOXES, SCORES, Nms, with_nms
from deploykit.onnx_tools.ort_session import cpu_session
from deploykit.onnx_tools.uint8_input import with_pixels
from deploykit.util.atomic_files import require_writable, write_atomically
from deploykit.util.errors import DeployError
from deploykit.util.lazy_import import require

MAX_RELATIVE_DIFFERENCE = 1e-4
_CHECKED_IMAGES = 2  # more than one, so that a batch fixed by mistake shows


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDifference:
    """Between two outputs: the largest absolute one, and that over the reference's largest magnitude.

    Of a network with several outputs, that of the output with the largest relative one.
    """

    absolute: float
    relative: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A written model: its file, what it is, and how far ONNX Runtime is from torch on it."""

    path: Path
    info: ModelInfo
    network: Network
    difference: OutputDifference


def export_onnx(
    which: float | Member,
    *,
    rule: Rule | None = None,
    side_px: int | None = None,
    weights: str | Path | None = None,
    source: SourceName | None = None,
    ema: bool = False,
    num_classes: int | None = None,
    normalization: Normalization | None = None,
    preprocess: bool = False,
    nms: Nms | None = None,
    labels: str | Path | None = None,
    output: str | Path | None = None,
    overwrite: bool = True,
) -> Export:
    """Builds a network, checks it against torch, and writes it as ONNX.

    Args:
        which: EfficientNet's compound coefficient phi, or what networks.member.choose_member gives.
        rule, side_px: of that phi, see choose_member.
        weights: a .safetensors or .pth checkpoint; random weights without.
        source: whose names and arithmetic it has, see checkpoints.sources; default told by the names.
        ema: take the moving average of the weights, where the checkpoint has both.
        num_classes: default what the checkpoint has, else 1000.
        normalization: of the images it was trained on; default what its source and file name tell.
        preprocess: take uint8 images, (n, side, side, 3), and normalize them in the graph.
        nms: of a detector, suppress overlapping boxes in the graph, see nms.with_nms.
        labels: a text file with the name of each class, a line each, in the order of the outputs.
        output: a folder or a .onnx file; default engines/NAME/.
        overwrite: replace another model that is there, rather than refuse.

    Raises:
        DeployError: bad input, or a model that differs from torch by more than 1e-4; nothing is written.
    """
    member = _member(which, rule, side_px)
    path = export_path(member.name, output)
    require_writable(path)
    network, loaded, info = prepare_export(
        member,
        weights=None if weights is None else Path(weights),
        source=source,
        ema=ema,
        num_classes=num_classes,
        normalization=normalization,
    )
    if nms is not None:
        _require_detector(network, member)
    if labels is not None:
        info = replace(info, labels=read_labels(Path(labels), network.num_classes))
    info = replace(info, input_type="uint8" if preprocess else "float32", nms=nms)
    if path.exists() and not overwrite:
        _require_same(path, info)
    graph = build_onnx_model(network, loaded, info)
    difference = difference_from_torch(to_bytes(graph), network, loaded)
    if not difference.relative <= MAX_RELATIVE_DIFFERENCE:
        raise DeployError(
            f"The exported model differs from torch by {difference.relative:.1e} (relative), "
            f"more than {MAX_RELATIVE_DIFFERENCE:.0e}; nothing was written.",
            code="export-check-failed",
            fix="look for extreme values in the weights, and report this if there are none",
        )
    if preprocess:
        graph = with_pixels(graph, info.preprocessing)
    if nms is not None:
        graph = with_nms(graph, nms)
    write_atomically(path, to_bytes(graph))
    return Export(path=path, info=info, network=network, difference=difference)


def _require_same(path: Path, info: ModelInfo) -> None:
    with suppress(DeployError):  # what can't be read is another one
        if read_model_info(read_model(path)) == info:
            return
    raise DeployError(
        f"{path} is another model than the one to export, which has {info.weights} weights; it would be "
        "lost.",
        code="model-would-be-replaced",
        fix=f"move {path.parent} away, or work in another folder",
    )


def _require_detector(network: Network, member: Member) -> None:
    if set(network.output_shapes) != {BOXES, SCORES}:
        raise DeployError(
            f"{member.name} answers with {', '.join(network.output_shapes)}: there are no boxes to suppress.",
            code="nms-not-applicable",
            fix="leave out --nms, or give --family efficientdet",
        )


def read_labels(path: Path, classes: int) -> tuple[str, ...]:
    """The lines of a text file, one a class.

    Raises:
        DeployError: there is no such file, or it has another number of lines.
    """
    try:
        labels = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DeployError(
            f"{path} is no text file with labels, or can't be read.",
            code="labels-invalid",
            fix="give a text file, a line a class",
        ) from error
    if len(labels) != classes or not all(labels):
        raise DeployError(
            f"{path} has {len(labels)} lines, {labels.count('')} of them empty; the model has {classes} "
            "classes.",
            code="labels-invalid",
            fix="give one name a line, in the order of the model's outputs",
        )
    return labels


def prepare_export(
    which: float | Member,
    *,
    rule: Rule | None = None,
    side_px: int | None = None,
    weights: Path | None = None,
    source: SourceName | None = None,
    ema: bool = False,
    num_classes: int | None = None,
    normalization: Normalization | None = None,
) -> tuple[Network, Weights, ModelInfo]:
    """The network, its weights and its description: all that goes into an export."""
    member = _member(which, rule, side_px)
    if weights is not None:
        network, loaded, trained_on = _trained(member, load_weights(weights, ema=ema), source, num_classes)
    elif source is not None or ema:
        raise DeployError(
            "There are no weights that --source or --ema are about.",
            code="option-not-applicable",
            fix="add --weights F",
        )
    else:
        network, trained_on = member.network(num_classes=num_classes), "imagenet"
        loaded = random_weights(network)
    mean, std = NORMALIZATIONS[normalization or trained_on]
    info = ModelInfo(
        family=network.family,
        phi=member.phi,
        rule=member.rule,
        depth=member.scale.depth,
        width=member.scale.width,
        precision="fp32",
        preprocessing=Preprocessing(side_px=member.scale.side_px, mean=mean, std=std),
        weights="random" if loaded.is_random else "trained",
        weights_sha256=loaded.sha256,
    )
    return network, loaded, info


def difference_from_torch(model: bytes, network: Network, weights: Weights) -> OutputDifference:
    """Runs the ONNX model and the torch module on the same random images."""
    torch = require("torch")
    from deploykit.networks.torch_module import build_module

    images = np.random.default_rng(0).standard_normal((_CHECKED_IMAGES, *network.input), np.float32)
    with torch.inference_mode():
        expected = build_module(network, weights).named_outputs(torch.from_numpy(images))
    actual = cpu_session(model).run(list(expected), {INPUT_NAME: images})
    return max(
        (_difference(given, wanted.numpy()) for given, wanted in zip(actual, expected.values(), strict=True)),
        key=lambda each: each.relative,
    )


def _difference(actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> OutputDifference:
    absolute, magnitude = float(np.abs(actual - expected).max()), float(np.abs(expected).max())
    return OutputDifference(absolute=absolute, relative=absolute / magnitude if magnitude else absolute)


def _member(which: float | Member, rule: Rule | None, side_px: int | None) -> Member:
    return which if isinstance(which, Member) else choose_member(phi=which, rule=rule, side_px=side_px)


def _trained(
    member: Member, weights: Weights, source: SourceName | None, num_classes: int | None
) -> tuple[Network, Weights, Normalization]:
    """The network as the checkpoint's authors compute it, its weights, and what these were trained on."""
    match = match_checkpoint(weights, member, source, num_classes=num_classes)
    require_complete_match(match)
    require_tensor_match(match.weights, match.network)
    return match.network, match.weights, match.normalization
