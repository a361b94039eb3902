"""All checkpoint sources, by the name that --source takes.

To add one, write its file in this folder and list it here.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from deploykit.networks.checkpoints.sources.effdet import EFFDET, EFFDET_TF
from deploykit.networks.checkpoints.sources.lukemelas import LUKEMELAS
from deploykit.networks.checkpoints.sources.nvidia import NVIDIA
from deploykit.networks.checkpoints.sources.source import CheckpointSource
from deploykit.networks.checkpoints.sources.timm import TF_PORT, TIMM
from deploykit.networks.checkpoints.sources.torchvision import TORCHVISION

SourceName = Literal["timm", "tf-port", "torchvision", "lukemelas", "nvidia", "effdet", "effdet-tf"]
SOURCE_NAMES: tuple[SourceName, ...] = get_args(SourceName)
SOURCES: Mapping[SourceName, CheckpointSource] = {
    "timm": TIMM,
    "tf-port": TF_PORT,
    "torchvision": TORCHVISION,
    "lukemelas": LUKEMELAS,
    "nvidia": NVIDIA,
    "effdet": EFFDET,
    "effdet-tf": EFFDET_TF,
}
