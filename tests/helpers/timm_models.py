"""Models of timm, torchvision and effdet: independent implementations of the networks."""

from functools import cache
from typing import Any

import numpy as np
import torch


@cache
def _timm() -> Any:
    """Import timm, which needs torchvision's operators; they are missing for a torch without CUDA."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _timm.library = library  # keeps the definitions alive
    import timm

    return timm


def timm_model(name: str, *, classes: int = 1000) -> torch.nn.Module:
    """Return a model of timm with random weights and batch-norm statistics."""
    torch.manual_seed(0)
    return random_norms(_timm().create_model(name, num_classes=classes).eval())


def torchvision_model(name: str, *, classes: int = 1000) -> torch.nn.Module:
    """Return a model of torchvision with random weights and batch-norm statistics."""
    _timm()
    import torchvision

    torch.manual_seed(0)
    return random_norms(getattr(torchvision.models, name)(num_classes=classes).eval())


def effdet_model(name: str, *, side_px: int, classes: int = 90) -> torch.nn.Module:
    """Return a model of efficientdet-pytorch with random weights, including fusion weights and biases."""
    _timm()
    import effdet

    torch.manual_seed(0)
    model = effdet.create_model(
        name, pretrained_backbone=False, image_size=(side_px, side_px), num_classes=classes
    )
    random_norms(model.eval())
    for path, parameter in model.named_parameters():
        if path.endswith("edge_weights"):
            torch.nn.init.uniform_(parameter, -0.3, 1.5)
        elif path.endswith("predict.conv_pw.weight"):
            parameter.data *= 4  # spreads scores and sizes
        elif path.endswith("bias") and "conv" in path.split(".")[-2]:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def random_norms(model: torch.nn.Module, *, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.4, 0.8)  # larger weights make residual sums explode
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    return model


def logits_of(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()
