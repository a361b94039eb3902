"""How well a checkpoint matches one network of a family."""

from dataclasses import dataclass

from deploykit.data.preprocessing import Normalization
from deploykit.networks.architecture.network import Network
from deploykit.networks.checkpoints.sources.registry import SOURCES, SourceName
from deploykit.networks.checkpoints.tensor_match import TensorMatch, match_tensors
from deploykit.networks.checkpoints.translate import trained_normalization, translate_weights
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.member import Member


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointMatch:
    """How well a checkpoint matches one network.

    Attributes:
        member: The network it was compared with.
        source: The library whose parameter names the checkpoint uses.
        network: The member's network, with the checkpoint's number of classes and the source's arithmetic.
        original_weights: The weights as they were read.
        weights: The same weights under this package's names.
        tensors: How these match the network, tensor by tensor.
    """

    member: Member
    source: SourceName
    network: Network
    original_weights: Weights
    weights: Weights
    tensors: TensorMatch

    @property
    def normalization(self) -> Normalization:
        """Mean and std of the images that the weights were trained on, by source and file name."""
        return trained_normalization(self.original_weights, self.member.family.name, self.source)

    @property
    def matched_fraction(self) -> float:
        """Tensors that match, as a fraction of all tensors of the network and the checkpoint."""
        match = self.tensors
        groups = (match.matched, match.missing, match.misshaped, match.unknown)
        return len(match.matched) / max(1, sum(map(len, groups)))


def match_checkpoint(
    weights: Weights, member: Member, source: SourceName | None = None, *, num_classes: int | None = None
) -> CheckpointMatch:
    """Compare a checkpoint with one network.

    Args:
        weights: As read from the checkpoint.
        member: The network.
        source: The library whose names the checkpoint uses; default the one whose names fit best.
        num_classes: Default the checkpoint's.

    Raises:
        DeployError: The source has no such network.
    """
    translated, found_source = translate_weights(weights, member.network(), source)
    classes = infer_num_classes(translated, member) if num_classes is None else num_classes
    network = SOURCES[found_source].adapt(member.network(num_classes=classes))
    return CheckpointMatch(
        member=member,
        source=found_source,
        network=network,
        original_weights=weights,
        weights=translated,
        tensors=match_tensors(translated, network),
    )


def infer_num_classes(weights: Weights, member: Member) -> int | None:
    """Return the number of classes of a checkpoint, or None if it has no classifier that fits.

    The classifier is the parameter whose size grows with the number of classes.
    """
    one, two = (member.network(num_classes=classes).state_shapes for classes in (1, 2))
    for name, shape in one.items():
        rows_per_class = two[name][0] - shape[0]
        if rows_per_class and (array := weights.state.get(name)) is not None:
            classes, remainder = divmod(array.shape[0] if array.ndim else 0, rows_per_class)
            return classes if not remainder and classes else None
    return None
