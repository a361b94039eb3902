from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from deploykit.cli.checkpoint_options import CheckpointOptions, checkpoint_options
from deploykit.cli.export import print_export
from deploykit.cli.network_options import NetworkChoice, network_options
from deploykit.cli.output import json_option, print_json
from deploykit.cli.progress import show_progress
from deploykit.data.preprocessing import Normalization
from deploykit.networks.checkpoints.checkpoint_match import CheckpointMatch, match_checkpoint
from deploykit.networks.checkpoints.load import load_weights
from deploykit.networks.checkpoints.recognize import require_complete_match, require_recognized
from deploykit.networks.checkpoints.sources.registry import SOURCES
from deploykit.networks.checkpoints.tensor_match import require_tensor_match
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.export import export_onnx
from deploykit.networks.families.registry import FAMILIES, find_family
from deploykit.networks.member import member_options


@click.command(name="import-weights")
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Print what matches, and write nothing.")
@network_options
@checkpoint_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder or .onnx file to write.")
@json_option
def command(
    weights: Path,
    check: bool,
    network: NetworkChoice,
    checkpoint: CheckpointOptions,
    output: Path | None,
    as_json: bool,
) -> None:
    """Recognize the network of the checkpoint WEIGHTS, and write it as ONNX.

    The network is recognized by the names and shapes of the tensors, or given as for export.

    \b
    Example:
      deploykit import-weights tf_efficientnet_b3.pth --check
      deploykit import-weights resnet50.pth -o models/
    """
    with show_progress("reading"):
        match = _match(load_weights(weights, ema=checkpoint.ema), network, checkpoint)
    facts = _facts(match, checkpoint.normalization)
    if check:
        print_json(facts) if as_json else print("\n".join(_lines(facts)))
        require_complete_match(match)
        require_tensor_match(match.weights, match.network)
        return
    with show_progress("exporting"):
        result = export_onnx(
            match.member,
            weights=weights,
            source=match.source,
            ema=checkpoint.ema,
            num_classes=checkpoint.num_classes,
            normalization=checkpoint.normalization,
            output=output,
        )
    if as_json:
        print_json({**facts, "path": result.path, "info": result.info, "difference": result.difference})
        return
    print(f"{weights.name} is {facts['network']} with the tensor names of {facts['names']}")
    print_export(result)


def _match(weights: Weights, network: NetworkChoice, checkpoint: CheckpointOptions) -> CheckpointMatch:
    """Compare the weights with the network that the options name, or with the one they are recognized as."""
    if replace(network, side_px=None).names_only_family:
        given = click.get_current_context().get_parameter_source("family") is not ParameterSource.DEFAULT
        families = [find_family(network.family)] if given else FAMILIES.values()
        member = require_recognized(weights, checkpoint.source, families).member
        if network.side_px is not None:
            member = replace(member, scale=replace(member.scale, side_px=network.side_px))
    else:
        member = network.resolve()
    return match_checkpoint(weights, member, checkpoint.source, num_classes=checkpoint.num_classes)


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
