"""Which network a checkpoint is of, told by the names and shapes of its tensors."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from deploykit.data.preprocessing import Normalization
from deploykit.networks.architecture.network import Network
from deploykit.networks.checkpoints.sources import (
    SOURCES,
    SourceName,
    trained_normalization,
    translate_weights,
)
from deploykit.networks.checkpoints.weights import TensorMatch, Weights, describe_mismatch, match
from deploykit.networks.families.family import Family
from deploykit.networks.families.registry import FAMILIES
from deploykit.networks.member import Member, choose_member
from deploykit.util.errors import DeployError

_RECOGNIZABLE = 0.3  # of tensors, by name and shape: what is left where half the names are others
_ALIKE_IN_NUMBER = 0.5  # of tensors: with fewer, or twice as many, names needn't be compared
_NAMED = 3  # tensors, of a checkpoint that is like nothing

# Parts of names that only such networks have, as the libraries in brackets write them.
_STRANGERS = {
    "relative_position_bias_table": "a Swin Transformer",  # timm, torchvision
    "patch_embed": "a vision transformer",  # timm
    "class_token": "a vision transformer",  # torchvision
    "embeddings.patch_embeddings": "a vision transformer",  # transformers
    "embed_tokens": "a language model",  # transformers
    "word_embeddings": "a language model",  # transformers
    "denseblock": "a DenseNet",  # timm, torchvision
    "roi_heads": "an R-CNN",  # torchvision
    "conv_dw.bias": "a ConvNeXt",  # timm
    "layer_scale": "a ConvNeXt",  # torchvision
    "model.0.conv": "a YOLO",  # ultralytics
    "Mixed_": "an Inception",  # torchvision
    "trunk_output": "a RegNet",  # torchvision
    "s1.b1.conv1": "a RegNet",  # timm
    "conv_head.bias": "a MobileNetV3",  # timm
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointMatch:
    """How far a checkpoint is one network.

    Attributes:
        source: whose names it has.
        network: with as many classes as the checkpoint.
        original, weights: as they were read, and under our names.
        match: of these with the network.
    """

    member: Member
    source: SourceName
    network: Network
    original: Weights
    weights: Weights
    match: TensorMatch

    @property
    def normalization(self) -> Normalization:
        return trained_normalization(self.original, self.member.family.name, self.source)

    @property
    def share(self) -> float:
        """Of all tensors that the network or the checkpoint has, those that suit by name and shape."""
        found = self.match
        everything = (found.matched, found.missing, found.misshaped, found.unknown)
        return len(found.matched) / max(1, sum(map(len, everything)))


def match_checkpoint(
    weights: Weights, member: Member, source: SourceName | None = None, *, num_classes: int | None = None
) -> CheckpointMatch:
    """A checkpoint beside one network; source and number of classes default what it tells itself."""
    plain = member.network()
    translated, whose = translate_weights(weights, plain, source)
    classes = infer_num_classes(translated, member) if num_classes is None else num_classes
    network = SOURCES[whose].adapt(member.network(num_classes=classes))
    return CheckpointMatch(
        member=member,
        source=whose,
        network=network,
        original=weights,
        weights=translated,
        match=match(translated, network),
    )


def recognize(
    weights: Weights, source: SourceName | None = None, families: Iterable[Family] = FAMILIES.values()
) -> CheckpointMatch | None:
    """The published network that a checkpoint is most like; None where it is like none."""
    found = max(
        (
            match_checkpoint(weights, member, source)
            for member in _members(families)
            if _may_be(weights, member) and (source is None or SOURCES[source].names(member.network()))
        ),
        key=lambda likeness: likeness.share,
        default=None,
    )
    return found if found is not None and found.share >= _RECOGNIZABLE else None


def require_recognized(
    weights: Weights, source: SourceName | None = None, families: Iterable[Family] = FAMILIES.values()
) -> CheckpointMatch:
    """The same.

    Raises:
        DeployError: it is like none; says what it looks like instead.
    """
    likeness = recognize(weights, source, families)
    if likeness is None:
        raise DeployError(
            f"{weights.origin} looks like {describe_checkpoint(weights)}.",
            code="checkpoint-unrecognized",
            fix="name the network it was trained as, with --family, --depth and --width: `deploykit "
            "families` lists what there is",
        )
    return likeness


def require_complete_match(likeness: CheckpointMatch) -> None:
    """Every tensor suits.

    Raises:
        DeployError: lists what doesn't, and what the checkpoint looks like.
    """
    if likeness.match.is_whole:
        return
    weights, asked = likeness.weights, member_options(likeness.member)
    mismatch = describe_mismatch(likeness.match, weights, likeness.network)
    problem = f"{weights.origin} does not fit {asked}: {mismatch}"
    nearest, looks = recognize(likeness.original), describe_checkpoint(likeness.original)
    classes = likeness.network.num_classes
    if nearest is not None and (member_options(nearest.member), nearest.network.num_classes) == (
        asked,
        classes,
    ):
        raise DeployError(
            f"{problem}; nothing suits it better than {looks}.",
            code="checkpoint-unrecognized",
            fix="give a checkpoint of that very network: this one is of a variant that no family here has",
        )
    raise DeployError(
        f"{problem}; it looks like {looks}.",
        code="checkpoint-unrecognized",
        fix="give the network and the --num-classes it was trained with; `deploykit import-weights FILE "
        "--check` prints what matches",
    )


def describe_checkpoint(weights: Weights) -> str:
    """What a checkpoint is, as far as can be told, for people to read."""
    likeness = recognize(weights)
    if likeness is not None:
        suits = (
            "" if likeness.match.is_whole else f", with {math.floor(100 * likeness.share)}% of its tensors"
        )
        return f"{member_options(likeness.member)} under the names of {SOURCES[likeness.source].title}{suits}"
    for part, stranger in _STRANGERS.items():
        if any(part in name for name in weights.state):
            return f"{stranger}, which no family here is"
    names = ", ".join(list(weights.state)[:_NAMED])
    return f"no network that is known here (its first tensors: {names})" if names else "nothing: it is empty"


def member_options(member: Member) -> str:
    """A member as options name it: `--family resnet50 --member 50`."""
    family, scale = member.family, member.scale
    named = next(
        (
            name
            for name, each in family.members.items()
            if (each.depth, each.width) == (scale.depth, scale.width)
        ),
        None,
    )
    if named is None:
        return (
            f"--family {family.name} --depth {scale.depth:g} --width {scale.width:g} --side {scale.side_px}"
        )
    side = "" if family.members[named].side_px == scale.side_px else f" --side {scale.side_px}"
    return f"--family {family.name} --member {named}{side}"


def infer_num_classes(checkpoint: Weights, member: Member) -> int | None:
    """By the parameter that grows with the classes; None where the checkpoint has none that fits."""
    one, two = (member.network(num_classes=classes).state for classes in (1, 2))
    for name, shape in one.items():
        for_each = two[name][0] - shape[0]
        if for_each and (found := checkpoint.state.get(name)) is not None:
            classes, rest = divmod(found.shape[0] if found.ndim else 0, for_each)
            return classes if not rest and classes else None
    return None


def _members(families: Iterable[Family]) -> Iterator[Member]:
    for family in families:
        seen = set()
        for name, scale in family.members.items():
            if (scale.depth, scale.width) not in seen:  # weights know nothing of sides
                seen.add((scale.depth, scale.width))
                yield choose_member(family, named=name)


def _may_be(weights: Weights, member: Member) -> bool:
    """Whether it has about as many tensors: a quick look, before all names are compared."""
    wanted, given = len(member.network().state), max(1, len(weights.state))
    return abs(math.log(wanted / given)) <= -math.log(_ALIKE_IN_NUMBER)
