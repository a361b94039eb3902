from collections.abc import Iterator
from itertools import takewhile
from operator import eq
from pathlib import Path

import click

from deploykit.cli.output import json_option, print_json, print_table
from deploykit.engine.audit.audit import CompiledLayer
from deploykit.engine.manifest import EngineManifest, TensorSpec, read_engine_manifest
from deploykit.networks.model_info import ModelInfo

_WIDEST_NODES = 60


@click.command(name="inspect")
@click.argument("engine", type=click.Path(path_type=Path))
@json_option
def command(engine: Path, as_json: bool) -> None:
    """Show what an engine is, what it was built from, and the layers that its compiler made.

    \b
    Example:
      deploykit inspect engines/efficientnet-phi3/model.int8.portable.engine
    """
    manifest = read_engine_manifest(engine)
    if as_json:
        print_json({"path": engine, "manifest": manifest})
        return
    for name, value in _facts(engine, manifest):
        print(f"{name + ':':14}{value}")
    profiles = manifest.audit.profiles
    for number, profile in enumerate(profiles):
        print()
        if len(profiles) > 1:
            print(f"profile {number}, batches of {manifest.batches[number]}:")
        _print_layers(profile.layers)


def _print_layers(layers: tuple[CompiledLayer, ...]) -> None:
    macs = sum(layer.macs for layer in layers) or 1
    print_table(
        ("layer", "kernel", "precision", "share of MACs", "remarks"),
        [
            (
                _shown(layer),
                layer.kind,
                (layer.precision or "").upper(),
                f"{100 * layer.macs / macs:.1f} %" if layer.products else "",
                _remarks(layer),
            )
            for layer in layers
        ],
    )


def _shown(layer: CompiledLayer) -> str:
    """Return the nodes as `blocks.1.0.conv_pw + .silu`, without the parts that the first one has."""
    if not layer.nodes:
        return layer.name
    first, *others = sorted(layer.nodes, key=len)
    full = " + ".join([first, *(_beyond(first, node) for node in others)])
    return full if len(full) <= _WIDEST_NODES else f"{first} + {len(others)} others"


def _beyond(first: str, node: str) -> str:
    shared, parts = first.split("."), node.split(".")
    same = sum(takewhile(bool, map(eq, shared, parts)))
    rest = ".".join(parts[same:])
    return f".{rest}" if same == len(shared) else rest


def _remarks(layer: CompiledLayer) -> str:
    remarks = {
        "reformat": layer.is_reformat,
        "depthwise": layer.is_depthwise,
        f"channels padded {layer.padded:.3g} times": layer.padded > 1,
    }
    return ", ".join(remark for remark, holds in remarks.items() if holds)


def _facts(engine: Path, manifest: EngineManifest) -> list[tuple[str, str]]:
    model = manifest.model
    phi = "" if model.phi is None else f" at phi {model.phi:g}"
    size = engine.stat().st_size / 1e6
    compiler = f"{manifest.target.compiler_title} {manifest.compiler_version}"
    return [
        ("engine", f"{manifest.precision.upper()} for {manifest.target.title}, {size:.1f} MB"),
        ("compiler", f"{compiler}, in {manifest.build_seconds:.1f} s"),
        ("model", f"{model.family}{phi}, {model.weights} weights"),
        ("input", f"{manifest.input.name}, {manifest.input_summary}"),
        ("preparation", _preparation(model)),
        (
            "output",
            ", ".join(map(_tensor, manifest.outputs))
            + (f", {len(model.labels)} labels" if model.labels else ""),
        ),
        ("SHA-256", f"engine {_short(manifest.engine_sha256)}, {', '.join(_origins(model))}"),
        ("audit", manifest.audit.summary()),
    ]


def _preparation(model: ModelInfo) -> str:
    done = model.preprocessing
    resized = f"shorter side to {done.side_px + done.crop_padding_px} px ({done.interpolation})"
    normalized = f"mean {_channels(done.mean)}, standard deviation {_channels(done.std)}"
    if model.input_type == "uint8":
        normalized += " in the engine"
    return f"{resized}, centre {done.side_px} px, {normalized}"


def _channels(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _origins(model: ModelInfo) -> Iterator[str]:
    for name, digest in (("FP32 model", model.onnx_sha256), ("ranges", model.ranges_sha256)):
        if digest is not None:
            yield f"{name} {_short(digest)}"


def _short(digest: str) -> str:
    return digest[:12]


def _tensor(tensor: TensorSpec) -> str:
    return f"{tensor.name}, {tensor.dtype} {('n', *tensor.shape)}".replace("'", "")
