"""Every family compiled for a GPU that is not here, and run on the CPU: real builds, no special cases."""

import numpy as np
import pytest
import torch

from deploykit import Engine, build_engine, export_onnx
from deploykit.architecture.member import choose_member
from deploykit.errors import DeployError
from deploykit.export import prepare

# The smallest published member of each family, and a larger network.
NETWORKS = [
    ("efficientnet", {"named": "b0"}),
    ("efficientnet", {"phi": 2}),
    ("efficientnet-lite", {"named": "lite0"}),
    ("efficientnet-lite", {"named": "lite3"}),
    ("efficientnetv2", {"named": "b0"}),
    ("efficientnetv2", {"named": "b3"}),
    ("efficientnetv2-s", {"named": "s"}),
    ("mobilenet-v2", {"named": "0.35"}),
    ("mobilenet-v2", {"named": "1.40"}),
    ("mobilenet-v2-d", {"named": "110d"}),
    ("resnet18", {"named": "18"}),
    ("resnet18", {"depth": 2.0, "width": 1.5}),
    ("resnet50", {"named": "50"}),
]


@pytest.mark.parametrize(("family", "which"), NETWORKS, ids=str)
def test_it_is_exported_compiled_in_fp16_and_int8_and_runs(workplace, family, which):
    member = choose_member(family, **which, side_px=96)
    exported = export_onnx(member, num_classes=10)
    assert exported.info.family == family
    for precision in ("fp16", "int8"):
        built = build_engine(onnx=exported.path, precision=precision, gpu="A10")
        assert built.manifest.model.family == family
        assert built.manifest.audit.products(precision) > 0
    on_cpu = build_engine(onnx=exported.path, precision="int8", gpu="cpu")
    with Engine.load(on_cpu.path) as engine:
        assert engine(np.zeros((2, 3, 96, 96), np.float32)).shape == (2, 10)


def test_weights_of_another_family_are_refused(workplace):
    _, weights, _ = prepare(choose_member("resnet18", side_px=32), num_classes=3)
    torch.save({name: torch.from_numpy(value) for name, value in weights.state.items()}, "r18.pth")
    with pytest.raises(DeployError, match="it looks like --family resnet18 --member 18"):
        export_onnx(0, weights="r18.pth")
    assert not (workplace / "engines").exists()
