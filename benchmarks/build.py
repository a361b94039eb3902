"""What building takes and gives: seconds, engine size and compiled layers, over phi, precision and GPU.

    python benchmarks/build.py

TensorRT-RTX, ahead of time, on whatever machine this is; random weights. Seconds are of the compiler
alone, and in brackets of all that build-engine does, calibrating on four generated images included.
Prints Markdown.
"""

import tempfile
import time
from pathlib import Path

from deploykit.engine.build import build_engine
from deploykit.networks.export import export_onnx
from deploykit.util.types import Precision

PHIS = (0, 3, 5, 7)
GPUS = ("T4", "A100", "L4")
PRECISIONS: tuple[Precision, ...] = ("fp16", "int8")


def main() -> None:
    print("| phi | GPU | precision | compiled | size | layers | fused | reformats | INT8 of the work |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for phi in PHIS:
            model = export_onnx(phi, output=Path(folder, f"{phi}.onnx")).path
            for gpu in GPUS:
                for precision in PRECISIONS:
                    print(_row(phi, model, gpu, precision), flush=True)


def _row(phi: float, model: Path, gpu: str, precision: Precision) -> str:
    start = time.perf_counter()
    built = build_engine(onnx=model, precision=precision, gpu=gpu, output=model.with_name("engine"))
    seconds, audit = time.perf_counter() - start, built.manifest.audit
    cells = (
        f"{phi:g}",
        f"{gpu} (SM{built.manifest.target.sm})",
        precision.upper(),
        f"{built.manifest.build_seconds:.1f} s ({seconds:.1f} s)",
        f"{built.path.stat().st_size / 1e6:.1f} MB",
        str(len(audit.layers)),
        str(sum(layer.is_fused for layer in audit.layers)),
        str(sum(layer.is_reformat for layer in audit.layers)),
        f"{100 * audit.macs_share('int8'):.1f} %",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
