"""Exporting a network to ONNX, checked against torch."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from deploykit.data.preprocessing import NORMALIZATIONS, Normalization, Preprocessing
from deploykit.networks.architecture.network import Network
from deploykit.networks.artifact_paths import export_path
from deploykit.networks.checkpoints.checkpoint_match import match_checkpoint
from deploykit.networks.checkpoints.load import load_weights
from deploykit.networks.checkpoints.recognize import require_complete_match
from deploykit.networks.checkpoints.sources.registry import SourceName
from deploykit.networks.checkpoints.tensor_match import require_tensor_match
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.class_labels import read_class_labels
from deploykit.networks.member import Member, choose_member
from deploykit.networks.model_info import ModelInfo, read_model_info
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.networks.random_weights import random_weights
from deploykit.networks.scaling import Rule
from deploykit.networks.torch_check import OutputDifference, difference_from_torch
from deploykit.onnx_tools.model_io import read_model, to_bytes
from deploykit.onnx_tools.nms import BOXES, SCORES, Nms, with_nms
from deploykit.onnx_tools.uint8_input import with_uint8_input
from deploykit.util.atomic_files import require_writable, write_atomically
from deploykit.util.errors import DeployError

MAX_RELATIVE_DIFFERENCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An exported model.

    Attributes:
        path: The ONNX file.
        info: Its description, as stored in the file.
        network: The network it was written from.
        difference: How far ONNX Runtime's outputs are from torch's.
    """

    path: Path
    info: ModelInfo
    network: Network
    difference: OutputDifference


def export_onnx(
    phi_or_member: float | Member,
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
    """Build a network, check its ONNX model against torch, and write it.

    Args:
        phi_or_member: Compound coefficient phi of EfficientNet, or a member, see member.choose_member.
        rule: How phi scales, see choose_member. Only with a phi.
        side_px: Input side, pixels, instead of phi's. Only with a phi.
        weights: A .safetensors, .pth or .pt checkpoint; default random weights.
        source: The library whose names and arithmetic the checkpoint has; default recognized from them.
        ema: Take the moving average of the weights from a checkpoint that has both.
        num_classes: Number of classes; default the checkpoint's, or the family's.
        normalization: Of the images the weights were trained on; default by source and file name.
        preprocess: Take uint8 images, (n, side, side, 3), and normalize them in the graph.
        nms: Suppress a detector's overlapping boxes in the graph, see nms.with_nms.
        labels: A text file with one class name per line, in the order of the outputs.
        output: A folder or a .onnx file; default engines/NAME/.
        overwrite: Replace a different model at the same path instead of refusing.

    Returns:
        The written model.

    Raises:
        DeployError: An argument is invalid, or the model differs from torch by more than 1e-4. Nothing is
            written then.
    """
    member = _to_member(phi_or_member, rule, side_px)
    path = export_path(member.name, output)
    require_writable(path)
    network, loaded, info = prepare_export(
        member,
        weights=weights,
        source=source,
        ema=ema,
        num_classes=num_classes,
        normalization=normalization,
    )
    if nms is not None:
        _require_detector(network, member)
    if labels is not None:
        info = replace(info, labels=read_class_labels(labels, network.num_classes))
    info = replace(info, input_type="uint8" if preprocess else "float32", nms=nms)
    if path.exists() and not overwrite:
        _require_same_model(path, info)
    graph = build_onnx_model(network, loaded, info)
    difference = difference_from_torch(to_bytes(graph), network, loaded)
    if not difference.relative <= MAX_RELATIVE_DIFFERENCE:  # true for NaN too
        raise DeployError(
            f"The exported model differs from torch by {difference.relative:.1e} (relative), more than "
            f"{MAX_RELATIVE_DIFFERENCE:.0e}; nothing was written.",
            code="export-check-failed",
            fix="check the weights for extreme values; if they have none, report a bug",
        )
    if preprocess:
        graph = with_uint8_input(graph, info.preprocessing)
    if nms is not None:
        graph = with_nms(graph, nms)
    write_atomically(path, to_bytes(graph))
    return Export(path=path, info=info, network=network, difference=difference)


def prepare_export(
    phi_or_member: float | Member,
    *,
    rule: Rule | None = None,
    side_px: int | None = None,
    weights: str | Path | None = None,
    source: SourceName | None = None,
    ema: bool = False,
    num_classes: int | None = None,
    normalization: Normalization | None = None,
) -> tuple[Network, Weights, ModelInfo]:
    """Return all that build_onnx_model needs: the network, its weights and its description.

    Args:
        phi_or_member: See export_onnx, as for the other arguments.
        rule: How phi scales.
        side_px: Input side, pixels.
        weights: A checkpoint; default random weights.
        source: The library whose names the checkpoint has.
        ema: Take the moving average of the weights.
        num_classes: Number of classes.
        normalization: Of the images the weights were trained on.

    Raises:
        DeployError: An argument is invalid, or the checkpoint does not fit the network.
    """
    member = _to_member(phi_or_member, rule, side_px)
    if weights is not None:
        network, loaded, trained_on = _load_trained(
            member, load_weights(weights, ema=ema), source, num_classes
        )
    elif source is not None or ema:
        raise DeployError(
            "--source and --ema need --weights.",
            code="option-not-applicable",
            fix="add --weights FILE",
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


def _to_member(phi_or_member: float | Member, rule: Rule | None, side_px: int | None) -> Member:
    if isinstance(phi_or_member, Member):
        return phi_or_member
    return choose_member(phi=phi_or_member, rule=rule, side_px=side_px)


def _load_trained(
    member: Member, weights: Weights, source: SourceName | None, num_classes: int | None
) -> tuple[Network, Weights, Normalization]:
    """Return the network as the checkpoint's source computes it, its weights, and their normalization."""
    match = match_checkpoint(weights, member, source, num_classes=num_classes)
    require_complete_match(match)
    require_tensor_match(match.weights, match.network)
    return match.network, match.weights, match.normalization


def _require_same_model(path: Path, info: ModelInfo) -> None:
    with suppress(DeployError):  # a file that cannot be read is a different one
        if read_model_info(read_model(path)) == info:
            return
    raise DeployError(
        f"{path} contains a different model, which exporting one with {info.weights} weights would replace.",
        code="model-would-be-replaced",
        fix=f"move {path.parent} away, or work in another folder",
    )


def _require_detector(network: Network, member: Member) -> None:
    if set(network.output_shapes) != {BOXES, SCORES}:
        raise DeployError(
            f"--nms needs a detector; {member.name} has the outputs {', '.join(network.output_shapes)}.",
            code="nms-not-applicable",
            fix="remove --nms, or use --family efficientdet",
        )
