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
@click.option("--fp16", is_flag=True, help="Build in FP16, the default for GPUs.")
@click.option(
    "--int8",
    "to_int8",
    is_flag=True,
    help="Build in INT8 where --int8-policy says so, and in FP16 elsewhere.",
)
@click.option("--fp32", is_flag=True, help="Build in FP32, the default for the CPU.")
@click.option("--gpu", help="GPU to compile for (T4, RTX 4090, ...), `local`, `portable`, or `cpu`.")
@click.option("--phi", type=float, help="Phi of the exported model.")
@click.option("--onnx", type=click.Path(path_type=Path), help="File of the exported model.")
@click.option(
    "--batch", metavar="MIN,OPT,MAX", help="Range of batch sizes, with the one to tune for; default: 1,1,64."
)
@click.option(
    "--profiles", metavar="B;B;...", help="Several batch ranges, each tuned separately, for example '1;8;64'."
)
@click.option(
    "--side", metavar="MIN,OPT,MAX", help="Range of input sides in pixels; default: the model's side only."
)
@click.option(
    "--compiler",
    type=click.Choice(["auto", *COMPILERS]),
    default="auto",
    show_default=True,
    help="Compiler to use; auto picks the one for the GPU.",
)
@click.option(
    "--optimization-level", type=int, help="Effort of the compiler: 0 builds fastest, 5 searches longest."
)
@click.option(
    "--workspace", "workspace_mb", type=int, metavar="MIB", help="Device memory for the workspace of kernels."
)
@click.option(
    "--version-compatible", is_flag=True, help="Let later TensorRT versions run the engine (TensorRT only)."
)
@click.option(
    "--hardware-compatible",
    is_flag=True,
    help="Let other GPUs run the engine: SM80 and later, or the same compute capability (TensorRT only).",
)
@click.option("--strip", is_flag=True, help="Leave the weights out of the plan (TensorRT only).")
@int8_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Path of the engine; default: next to the model."
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
    """Compile the exported model to an engine, and write its manifest next to it.

    Without --gpu, the engine is for the GPU of this machine. If there is no GPU, it is the portable engine.

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
            "--batch and --profiles contradict each other.", code="option-conflict", fix="remove one of them"
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
                f"{flags} contradict each other.", code="option-conflict", fix="remove one of them"
            )
