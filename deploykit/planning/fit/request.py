"""The request for a fit, and how one network is judged against it."""

from dataclasses import dataclass

from deploykit.gpu_catalog.gpus import Gpu
from deploykit.networks.families.family import Family
from deploykit.networks.member import Member, choose_member
from deploykit.networks.scaling import Axis
from deploykit.networks.single_axis import single_axis_member
from deploykit.planning.cost_model.rates import storage_precision
from deploykit.planning.fit.memory import estimate_memory_bytes
from deploykit.planning.fit.result import Candidate
from deploykit.planning.fit.targets import Targets
from deploykit.planning.latency_source import Latency, LatencySource
from deploykit.util.types import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """One fit at one precision.

    Attributes:
        latency_source: Answers how long a batch takes.
        gpu: The GPU to predict for; None if this machine is measured.
        compared_precisions: Every precision that the whole fit compares, this one included.
        axis: The only axis to scale; None for compound scaling.
        batch: Images per batch; None to find the batch that suits each network best.
        phi_step: Distance between the phis to consider.
        percentile: Which percentile of measured and recorded latencies decides, from 0 to 100.
        optimistic: Whether the middle of a predicted interval decides, not its unfavourable end.
    """

    latency_source: LatencySource
    gpu: Gpu | None
    precision: Precision
    compared_precisions: tuple[Precision, ...]
    family: Family
    axis: Axis | None
    targets: Targets
    batch: int | None
    phi_step: float
    percentile: float
    optimistic: bool

    @property
    def untried_precisions(self) -> tuple[Precision, ...]:
        """Precisions worth comparing that the fit did not compare."""
        candidates = self.latency_source.candidate_precisions
        return tuple(each for each in candidates if each not in self.compared_precisions)

    def decisive_ms(self, latency: Latency) -> float:
        """Return the latency that is compared with the target."""
        return latency.expected_ms if self.optimistic else latency.high_ms

    def decisive_images_per_s(self, latency: Latency) -> float:
        """Return the throughput that is compared with the target."""
        return latency.images_per_s if self.optimistic else latency.low_images_per_s

    def choose_member(self, phi: float) -> Member:
        """Return the network at phi; along one axis, the network with as much work as compound phi.

        Raises:
            DeployError: The axis alone cannot reach that much work.
        """
        compound = choose_member(self.family, phi=phi)
        if self.axis is None:
            return compound
        return single_axis_member(self.family, self.axis, macs=compound.network().macs)

    def judge(self, phi: float, member: Member, batch: int) -> Candidate:
        """Return the network's figures at a batch size, and the targets that it misses.

        Raises:
            DeployError: The GPU's facts do not suffice for a prediction.
        """
        latency = self.latency_source.find_latency(member, precision=self.precision, batch=batch)
        stored = self.precision if self.gpu is None else storage_precision(self.gpu, self.precision)
        memory_bytes = estimate_memory_bytes(member.network(), stored=stored, batch=batch)
        accuracy = find_published_accuracy(self.family, phi, member)
        is_met = {
            "latency": self.targets.is_fast_enough(self.decisive_ms(latency)),
            "throughput": self.targets.is_throughput_enough(self.decisive_images_per_s(latency)),
            "memory": self.targets.is_small_enough(memory_bytes),
            "accuracy": self.targets.is_accurate_enough(accuracy),
        }
        return Candidate(
            phi=phi,
            scale=member.scale,
            precision=self.precision,
            batch=batch,
            latency=latency,
            memory_bytes=memory_bytes,
            accuracy=accuracy,
            misses=tuple(target for target, met in is_met.items() if not met),
        )


def find_published_accuracy(family: Family, phi: float, member: Member) -> float | None:
    """Return the published accuracy of a network; between published members, that of the next smaller one."""
    scale = member.scale
    if member.phi is not None and member.rule == "published":
        scale = family.ladder[int(phi)]
    published = family.accuracy.get(scale)
    return None if published is None else published.value
