from pathlib import Path

import click

from deploykit.cli.output import json_option, print_json, print_table
from deploykit.engine.audit import CompiledLayer
from deploykit.engine.manifest import Manifest, Tensor, read_manifest


@click.command(name="inspect")
@click.argument("engine", type=click.Path(path_type=Path))
@json_option
def command(engine: Path, as_json: bool) -> None:
    """Print what an engine is, what it was made from, and what its compiler made, layer by layer.

    \b
    Example:
      deploykit inspect engines/efficientnet-phi3/model.int8.portable.engine
    """
    manifest = read_manifest(engine)
    if as_json:
        print_json({"path": engine, "manifest": manifest})
        return
    audit = manifest.audit
    macs = sum(layer.macs for layer in audit.layers) or 1
    print_table(
        ("layer", "compiler's", "precision", "of the work", "remarks"),
        [
            (
                _shown(layer),
                layer.kind,
                (layer.precision or "").upper(),
                f"{100 * layer.macs / macs:.1f} %" if layer.products else "",
                _remarks(layer),
            )
            for layer in audit.layers
        ],
    )
    print()
    for name, value in _facts(engine, manifest):
        print(f"{name + ':':14}{value}")


def _shown(layer: CompiledLayer) -> str:
    return " + ".join(layer.nodes) or layer.name


def _remarks(layer: CompiledLayer) -> str:
    remarks = {
        "reformat": layer.is_reformat,
        "depthwise": layer.is_depthwise,
        f"channels padded {layer.padded:.3g} times": layer.padded > 1,
    }
    return ", ".join(remark for remark, holds in remarks.items() if holds)


def _facts(engine: Path, manifest: Manifest) -> list[tuple[str, str]]:
    model = manifest.model
    phi = "" if model.phi is None else f" at phi {model.phi:g}"
    size = engine.stat().st_size / 1e6
    compiler = f"{manifest.target.compiler_title} {manifest.compiler_version}"
    return [
        ("engine", f"{manifest.precision.upper()} for {manifest.target.title}, {size:.1f} MB"),
        ("compiler", f"{compiler}, in {manifest.build_seconds:.1f} s"),
        ("model", f"{model.family}{phi}, {model.weights} weights"),
        ("input", f"{manifest.input.name}, {manifest.takes}"),
        ("output", _tensor(manifest.output)),
        ("audit", manifest.audit.summary()),
    ]


def _tensor(tensor: Tensor) -> str:
    return f"{tensor.name}, {tensor.dtype} {('n', *tensor.shape)}".replace("'", "")
