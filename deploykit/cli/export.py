from dataclasses import asdict
from pathlib import Path

import click

from deploykit.cli.checkpoint_options import CheckpointOptions, checkpoint_options
from deploykit.cli.network_options import NetworkChoice, network_options
from deploykit.cli.nms_options import nms_options
from deploykit.cli.notes import note
from deploykit.cli.output import json_option, print_json
from deploykit.cli.progress import show_progress
from deploykit.networks.export import Export, export_onnx
from deploykit.onnx_tools.nms import Nms


@click.command(name="export")
@network_options
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Checkpoint to load: .safetensors, .pth or .pt."
)
@checkpoint_options
@click.option(
    "--preprocess", is_flag=True, help="Make the model take uint8 images and normalize them itself."
)
@nms_options
@click.option("--labels", type=click.Path(path_type=Path), help="Text file with one class name per line.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder or .onnx file to write.")
@json_option
def command(
    network: NetworkChoice,
    weights: Path | None,
    checkpoint: CheckpointOptions,
    preprocess: bool,
    nms: Nms | None,
    labels: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Build a network, check it against PyTorch, and write it as ONNX.

    \b
    Example:
      deploykit export --phi 3 --weights b3.safetensors
      deploykit export --family resnet18 --depth 2
      deploykit export --family efficientdet --phi 1 --nms
    """
    member = network.resolve()
    with show_progress("exporting"):
        result = export_onnx(
            member,
            weights=weights,
            source=checkpoint.source,
            ema=checkpoint.ema,
            num_classes=checkpoint.num_classes,
            normalization=checkpoint.normalization,
            preprocess=preprocess,
            nms=nms,
            labels=labels,
            output=output,
        )
    if weights is None:
        note(
            "The weights are random: use the model to build and time engines, not for accuracy. "
            "--weights loads trained ones.",
            important=True,
        )
    if as_json:
        print_json({"path": result.path, "info": result.info, "difference": asdict(result.difference)})
        return
    print_export(result)


def print_export(result: Export) -> None:
    """Print what was written, and how far its outputs are from PyTorch's."""
    built, difference = result.network, result.difference
    print(
        f"{result.path}: {built.side_px} px, {built.num_classes} classes, "
        f"{built.parameter_count / 1e6:.2f} M parameters, {built.macs / 1e9:.3f} G MACs"
    )
    print(
        f"largest difference from PyTorch: {difference.absolute:.1e} absolute, "
        f"{difference.relative:.1e} relative"
    )
