from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from deploykit.cli.checkpoint_options import checkpoint_options
from deploykit.cli.export import print_export
from deploykit.cli.network_options import chosen, names_network, network_options
from deploykit.cli.output import json_option, phases, print_json
from deploykit.data.preprocessing import Normalization
from deploykit.networks.checkpoints.checkpoint_match import CheckpointMatch, match_checkpoint
from deploykit.networks.checkpoints.load import load_weights
from deploykit.networks.checkpoints.recognize import require_complete_match, require_recognized
from deploykit.networks.checkpoints.sources.registry import SOURCES, SourceName
from deploykit.networks.checkpoints.tensor_match import require_tensor_match
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.export import export_onnx
from deploykit.networks.families.registry import FAMILIES, find_family
from deploykit.networks.member import member_options


@click.command(name="import-weights")
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Only print what matches; write nothing.")
@network_options
@checkpoint_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder or .onnx file.")
@json_option
def command(
    weights: Path,
    check: bool,
    source: SourceName | None,
    ema: bool,
    num_classes: int | None,
    normalization: Normalization | None,
    output: Path | None,
    as_json: bool,
    **network: Any,
) -> None:
    """Tell which network a checkpoint is of, and write it as ONNX.

    The network is told by names and shapes of the tensors, or named as for export.

    \b
    Example:
      deploykit import-weights tf_efficientnet_b3.pth --check
      deploykit import-weights resnet50.pth -o models/
    """
    with phases("reading"):
        match = _match(load_weights(weights, ema=ema), source, num_classes, network)
    facts = _facts(match, normalization)
    if check:
        print_json(facts) if as_json else print("\n".join(_lines(facts)))
        require_complete_match(match)
        require_tensor_match(match.weights, match.network)
        return
    with phases("exporting"):
        result = export_onnx(
            match.member,
            weights=weights,
            source=match.source,
            ema=ema,
            num_classes=num_classes,
            normalization=normalization,
            output=output,
        )
    if as_json:
        print_json({**facts, "path": result.path, "info": result.info, "difference": result.difference})
        return
    print(f"{weights.name} is {facts['network']} under the names of {facts['names']}")
    print_export(result)


def _match(
    weights: Weights, source: SourceName | None, num_classes: int | None, network: dict[str, Any]
) -> CheckpointMatch:
    side_px = network["side_px"]
    if names_network(**{**network, "side_px": None}):
        return match_checkpoint(weights, chosen(**network), source, num_classes=num_classes)
    told = click.get_current_context().get_parameter_source("family") is not ParameterSource.DEFAULT
    families = [find_family(network["family"])] if told else FAMILIES.values()
    found = require_recognized(weights, source, families).member
    member = found if side_px is None else replace(found, scale=replace(found.scale, side_px=side_px))
    return match_checkpoint(weights, member, source, num_classes=num_classes)


def _facts(match: CheckpointMatch, normalization: Normalization | None) -> dict[str, Any]:
    found = match.tensors
    return {
        "network": member_options(match.member),
        "source": match.source,
        "names": SOURCES[match.source].title,
        "fits": found.is_complete,
        "matched": len(found.matched),
        "missing": found.missing,
        "of_another_shape": found.misshaped,
        "unknown": found.unknown,
        "classes": match.network.num_classes,
        "side_px": match.network.side_px,
        "normalization": normalization or match.normalization,
        "norm_epsilon": match.network.norm_epsilon,
        "same_padding": match.network.same_padding,
    }


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    padding = "TensorFlow's SAME" if facts["same_padding"] else "PyTorch's"
    others = ", ".join(
        f"{len(facts[kind])} {kind.replace('_', ' ')}" for kind in ("missing", "of_another_shape", "unknown")
    )
    yield f"network: {facts['network']}, {facts['classes']} classes"
    yield f"names: {facts['names']} (--source {facts['source']})"
    yield f"tensors: {facts['matched']} match, {others}"
    yield f"images: {facts['side_px']} px, {facts['normalization']} mean and std"
    yield f"arithmetic: batch norms' epsilon {facts['norm_epsilon']:g}, {padding} padding"
