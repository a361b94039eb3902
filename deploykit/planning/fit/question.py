"""What is asked of each network, and what it answers."""

from dataclasses import dataclass

from deploykit.gpu_catalog.gpus import Gpu
from deploykit.networks.families.family import Family
from deploykit.networks.member import Member
from deploykit.networks.scaling import Axis
from deploykit.planning.cost_model.cost_model import stored_precision
from deploykit.planning.fit.answer import Candidate
from deploykit.planning.fit.goal import Goal
from deploykit.planning.fit.memory import estimated_bytes
from deploykit.planning.latency_source import Clock, Latency
from deploykit.util.types import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of each network.

    Attributes:
        clock: says how long a batch takes.
        gpu: that is predicted for; None where this machine is measured.
        compared: the precisions that are asked about, this one among them.
        batch: None where it is free.
        optimistic: the middle of an interval decides, not its unfavourable end.
    """

    clock: Clock
    gpu: Gpu | None
    precision: Precision
    compared: tuple[Precision, ...]
    family: Family
    axis: Axis | None
    goal: Goal
    batch: int | None
    phi_step: float
    percentile: float
    optimistic: bool

    def decisive_ms(self, latency: Latency) -> float:
        return latency.expected_ms if self.optimistic else latency.high_ms

    def decisive_images_per_s(self, latency: Latency) -> float:
        return latency.images_per_s if self.optimistic else latency.low_images_per_s

    def answer(self, phi: float, member: Member, batch: int) -> Candidate:
        """Of the member that is phi's, at a batch.

        Raises:
            DeployError: too little is known of the GPU.
        """
        goal = self.goal
        latency = self.clock.latency(member, precision=self.precision, batch=batch)
        stored = self.precision if self.gpu is None else stored_precision(self.gpu, self.precision)
        memory_bytes = estimated_bytes(member.network(), stored=stored, batch=batch)
        accuracy = published_accuracy(self.family, phi, member)
        met = {
            "latency": goal.is_fast_enough(self.decisive_ms(latency)),
            "throughput": goal.is_productive_enough(self.decisive_images_per_s(latency)),
            "memory": goal.is_small_enough(memory_bytes),
            "accuracy": goal.is_accurate_enough(accuracy),
        }
        return Candidate(
            phi=phi,
            scale=member.scale,
            precision=self.precision,
            batch=batch,
            latency=latency,
            memory_bytes=memory_bytes,
            accuracy=accuracy,
            misses=tuple(target for target, is_met in met.items() if not is_met),
        )


def published_accuracy(family: Family, phi: float, member: Member) -> float | None:
    """Of that very network; between published members that of the one below."""
    scale = member.scale
    if member.phi is not None and member.rule == "published":
        scale = family.ladder[int(phi)]
    found = family.accuracy.get(scale)
    return None if found is None else found.value
