from dataclasses import asdict
from pathlib import Path

import click

from deploykit.cli.output import json_option, note, phases, print_json
from deploykit.export import export_onnx
from deploykit.scaling import RULES, Rule


@click.command(name="export")
@click.option("--phi", type=float, required=True, help="Compound coefficient, 0 to 7; fractions are fine.")
@click.option(
    "--rule", type=click.Choice(RULES), default="published", show_default=True, help="How phi scales."
)
@click.option(
    "--weights", type=click.Path(path_type=Path), help=".safetensors or .pth with timm's parameter names."
)
@click.option("--num-classes", type=click.IntRange(min=1), help="Default: the checkpoint's, else 1000.")
@click.option("--side", "side_px", type=int, help="Input side in pixels; default: the member's own.")
@click.option("--preprocess", is_flag=True, help="Take uint8 images and normalize them in the graph.")
@click.option(
    "--labels", type=click.Path(path_type=Path), help="Text file with each class's name, a line each."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder or .onnx file.")
@json_option
def command(
    phi: float,
    rule: Rule,
    weights: Path | None,
    num_classes: int | None,
    side_px: int | None,
    preprocess: bool,
    labels: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Build the EfficientNet at PHI, check it against PyTorch, and write it as ONNX.

    \b
    Example:
      deploykit export --phi 3 --weights b3.safetensors
    """
    with phases("exporting"):
        result = export_onnx(
            phi,
            rule=rule,
            weights=weights,
            num_classes=num_classes,
            side_px=side_px,
            preprocess=preprocess,
            labels=labels,
            output=output,
        )
    if weights is None:
        note(
            "Random weights: right for building and timing engines, useless for accuracy; "
            "--weights gives trained ones."
        )
    if as_json:
        print_json({"path": result.path, "info": result.info, "difference": asdict(result.difference)})
        return
    network, difference = result.network, result.difference
    print(
        f"{result.path}: {network.side_px} px, {network.num_classes} classes, "
        f"{network.parameter_count / 1e6:.2f} M parameters, {network.macs / 1e9:.3f} G MACs"
    )
    print(
        f"largest difference from PyTorch: {difference.absolute:.1e} absolute, "
        f"{difference.relative:.1e} relative"
    )
