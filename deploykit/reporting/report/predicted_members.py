"""Predict the latency of families on GPUs, to show it next to measurements."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploykit.gpu_catalog.gpus import find_gpu
from deploykit.networks.families.family import Family
from deploykit.networks.scaling import Scale
from deploykit.planning.cost_model.cost_model import Prediction, predict_latency
from deploykit.stats.estimate import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedMember:
    """One member of a family on one GPU, FP16, batch 1."""

    family: Family
    gpu: str
    phi: float
    scale: Scale
    macs: int
    latency: Prediction

    @property
    def estimate(self) -> Estimate:
        """Latency in milliseconds, with the cost model's interval."""
        latency = self.latency
        return Estimate(value=latency.latency_ms, low=latency.low_ms, high=latency.high_ms)

    @property
    def series(self) -> str:
        """Name of its series in plots."""
        return f"{self.family.title} on {self.gpu}, FP16, TensorRT"


def predict_families(families: Sequence[Family], gpus: Sequence[str]) -> tuple[PredictedMember, ...]:
    """Predict the latency of each family's published phis on each GPU.

    Raises:
        DeployError: A GPU is unknown, or its facts do not suffice.
    """
    return tuple(
        PredictedMember(
            family=family,
            gpu=gpu.name,
            phi=phi,
            scale=scale,
            macs=network.macs,
            latency=predict_latency(network, gpu, precision="fp16", batch=1),
        )
        for gpu in map(find_gpu, gpus)
        for family in families
        for phi in family.default_phis
        for scale in (family.scale_for(phi),)
        for network in (family.network(scale),)
    )
