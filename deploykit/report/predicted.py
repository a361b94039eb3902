"""Latencies of GPUs that nobody measured, beside those that somebody did."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploykit.architecture.efficientnet import efficientnet
from deploykit.predict.cost_model import Prediction, predict_latency
from deploykit.predict.gpus import find_gpu
from deploykit.scaling import PUBLISHED, Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """One member of the family on one GPU, FP16, batch 1."""

    gpu: str
    phi: int
    scale: Scale
    macs: int
    latency: Prediction

    @property
    def series(self) -> str:
        return f"{self.gpu}, FP16, TensorRT"


def predict_family(gpus: Sequence[str]) -> tuple[Predicted, ...]:
    """The published members on each GPU.

    Raises:
        DeployError: a GPU that is not known, or of which too little is.
    """
    return tuple(
        Predicted(
            gpu=gpu.name,
            phi=phi,
            scale=scale,
            macs=network.macs,
            latency=predict_latency(network, gpu, precision="fp16", batch=1),
        )
        for gpu in map(find_gpu, gpus)
        for phi, scale in enumerate(PUBLISHED)
        for network in (efficientnet(scale),)
    )
