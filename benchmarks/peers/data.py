"""The trained models and labelled images the comparisons need, which are not part of the project."""

import sys
from pathlib import Path

MODEL, HARD_MODEL = "efficientnet_b0_cifar10_64px", "efficientnet_b0_cifar10_64px_hard"
CALIBRATION, VALIDATION = "cifar10_calib.npz", "cifar10_val.npz"


def folder_argument(*models: str) -> Path:
    """The folder the script was given, as its only argument.

    Raises:
        SystemExit: there was none, or it lacks a file.
    """
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {Path(sys.argv[0]).name} FOLDER")
    folder = Path(sys.argv[1])
    for name in (CALIBRATION, VALIDATION, *(f"{model}.safetensors" for model in models)):
        if not (folder / name).is_file():
            raise SystemExit(f"{folder} holds no {name}.")
    return folder
