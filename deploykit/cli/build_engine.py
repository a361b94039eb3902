from pathlib import Path

import click

from deploykit.cli.int8_options import int8_options
from deploykit.cli.notes import note
from deploykit.cli.output import json_option, print_json
from deploykit.cli.progress import show_progress
from deploykit.engine.build import build_engine
from deploykit.engine.compilers import COMPILERS, BuildOptions
from deploykit.engine.manifest import manifest_path
from deploykit.engine.shapes import BatchRange, SideRange, parse_profiles
from deploykit.quantize.int8_options import Int8Options
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision


@click.command(name="build-engine")
@click.option("--fp16", is_flag=True, help="The default for GPUs.")
@click.option("--int8", "to_int8", is_flag=True, help="What --int8-policy says in INT8, the rest in FP16.")
@click.option("--fp32", is_flag=True, help="The default for the CPU.")
@click.option("--gpu", help="GPU to compile for (T4, RTX 4090, ...), `local`, `portable`, or `cpu`.")
@click.option("--phi", type=float, help="Which exported model, by its phi.")
@click.option("--onnx", type=click.Path(path_type=Path), help="Which exported model, by its file.")
@click.option("--batch", metavar="MIN,OPT,MAX", help="Batch sizes; default 1,1,64.")
@click.option("--profiles", metavar="B;B;...", help="Several of these, tuned for each: '1;8;64', say.")
@click.option("--side", metavar="MIN,OPT,MAX", help="Sides of images, px; default the model's own alone.")
@click.option("--compiler", type=click.Choice(["auto", *COMPILERS]), default="auto", show_default=True)
@click.option("--optimization-level", type=int, help="0 builds fastest, 5 searches longest.")
@click.option("--workspace", "workspace_mb", type=int, metavar="MIB", help="Device memory kernels work in.")
@click.option("--version-compatible", is_flag=True, help="TensorRT: later versions run the engine too.")
@click.option(
    "--hardware-compatible",
    is_flag=True,
    help="TensorRT: other GPUs of SM80 and later, or of the same compute capability, run it too.",
)
@click.option("--strip", is_flag=True, help="TensorRT: leave the weights out of the plan.")
@int8_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Engine file; default: beside the model."
)
@json_option
def command(
    fp16: bool,
    to_int8: bool,
    fp32: bool,
    gpu: str | None,
    phi: float | None,
    onnx: Path | None,
    batch: str | None,
    profiles: str | None,
    side: str | None,
    compiler: str,
    optimization_level: int | None,
    workspace_mb: int | None,
    version_compatible: bool,
    hardware_compatible: bool,
    strip: bool,
    int8: Int8Options,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compile the exported model to an engine, and write its manifest beside it.

    Without --gpu: for the GPU of this machine, and where there is none, the portable engine.

    \b
    Example:
      deploykit build-engine --int8 --gpu T4 --data photos/ --batch 1,8,64
    """
    with show_progress("building") as progress:
        built = build_engine(
            phi=phi,
            onnx=onnx,
            precision=_precision(fp16=fp16, int8=to_int8, fp32=fp32),
            gpu=gpu,
            batches=_batches(batch, profiles),
            side=None if side is None else SideRange.parse(side),
            compiler=next((each for each in COMPILERS if each == compiler), None),
            options=BuildOptions(
                optimization_level=optimization_level,
                workspace_mb=workspace_mb,
                version_compatible=version_compatible,
                hardware_compatible=hardware_compatible,
                strip=strip,
            ),
            int8=int8,
            output=output,
            note=note,
            progress=progress,
        )
    manifest = built.manifest
    if as_json:
        print_json({"path": built.path, "manifest": manifest})
        return
    print(
        f"{built.path}: {manifest.precision.upper()} for {manifest.target.title}, "
        f"{built.path.stat().st_size / 1e6:.1f} MB, compiled in {manifest.build_seconds:.1f} s"
    )
    print(f"audit: {manifest.audit.summary()}")
    print(f"manifest: {manifest_path(built.path)}")


def _batches(batch: str | None, profiles: str | None) -> tuple[BatchRange, ...]:
    if batch is not None and profiles is not None:
        raise DeployError(
            "--batch and --profiles contradict each other.", code="option-conflict", fix="give one of them"
        )
    if profiles is not None:
        return parse_profiles(profiles)
    return (BatchRange() if batch is None else BatchRange.parse(batch),)


def _precision(**asked: bool) -> Precision | None:
    match [name for name, wanted in asked.items() if wanted]:
        case []:
            return None
        case ["fp16" | "int8" | "fp32" as only]:
            return only
        case several:
            flags = " and ".join(f"--{name}" for name in several)
            raise DeployError(
                f"{flags} contradict each other.", code="option-conflict", fix="give one of them"
            )
