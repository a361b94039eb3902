"""What would make something fit where nothing does."""

import math
from collections.abc import Iterator

from deploykit.architecture.member import Member
from deploykit.errors import DeployError
from deploykit.fit.answer import Candidate
from deploykit.fit.goal import Goal
from deploykit.fit.grid import BATCHES
from deploykit.fit.memory import estimated_bytes
from deploykit.predict.cost_model import predict_latency
from deploykit.predict.gpus import Gpu, known_gpus
from deploykit.scaling import phi_label
from deploykit.vocabulary import Precision

_NAMED = 3  # GPUs


def advise(
    miss: Candidate, member: Member, goal: Goal, gpu: Gpu | None, *, optimistic: bool
) -> Iterator[str]:
    """Sentences; of a GPU that was predicted for they are predictions themselves, of this machine untried."""
    if "accuracy" in miss.misses:
        yield "A family of more accurate networks would fit, or a lower --min-accuracy."
        return
    if "memory" in miss.misses and miss.batch == 1:
        yield "A family of smaller networks would fit, or a larger --max-memory."
        return
    if gpu is None:
        smaller = "a smaller --batch, " if miss.batch > 1 else ""
        yield f"Not tried: {smaller}--precision int8, or a faster machine."
        return

    network, wanted = member.network(), f"for phi {phi_label(miss.phi)}"

    def latency_ms(where: Gpu, precision: Precision, batch: int) -> float:
        try:
            found = predict_latency(network, where, precision=precision, batch=batch)
        except DeployError:  # too little is known of it
            return math.inf
        return found.latency_ms if optimistic else found.high_ms

    def meets(where: Gpu, precision: Precision, batch: int) -> bool:
        memory_bytes = estimated_bytes(network, precision=precision, batch=batch)
        return goal.is_small_enough(memory_bytes) and goal.is_met(
            latency_ms=latency_ms(where, precision, batch), batch=batch
        )

    others = sorted(BATCHES, key=lambda size: abs(math.log(size / miss.batch)))
    batch = next((size for size in others if size != miss.batch and meets(gpu, miss.precision, size)), None)
    if batch is not None:
        yield f"--batch {batch} is predicted to fit, {wanted}."
    if miss.precision != "int8" and meets(gpu, "int8", miss.batch):
        yield f"--precision int8 is predicted to fit, {wanted}."
    faster = [other for other in known_gpus() if other != gpu and meets(other, miss.precision, miss.batch)]
    faster.sort(key=lambda other: -latency_ms(other, miss.precision, miss.batch))  # what just suffices
    if faster:
        names = ", ".join(other.name for other in faster[:_NAMED])
        yield f"Predicted to fit, {wanted}: {names}{' and others' if len(faster) > _NAMED else ''}."
    else:
        yield "No GPU that is known is predicted to fit."
