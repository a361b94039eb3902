"""Recognizing which network a checkpoint belongs to, by the names and shapes of its tensors."""

import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from deploykit.networks.checkpoints.checkpoint_match import CheckpointMatch, match_checkpoint
from deploykit.networks.checkpoints.load import load_weights
from deploykit.networks.checkpoints.sources.registry import SOURCES, SourceName
from deploykit.networks.checkpoints.tensor_match import describe_mismatch
from deploykit.networks.checkpoints.weights import Weights
from deploykit.networks.families.family import Family
from deploykit.networks.families.registry import FAMILIES
from deploykit.networks.member import Member, choose_member, member_options
from deploykit.util.errors import DeployError

_MIN_MATCHED_FRACTION = 0.3  # matches by name and shape; a third remains if half the names are different
_MIN_COUNT_RATIO = 0.5  # with fewer than half, or more than twice, the tensors, names are not compared
_LISTED_TENSORS = 3  # of an unrecognized checkpoint

# Parts of parameter names that only other kinds of network have; comments name the libraries that use them.
_OTHER_NETWORKS = {
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


def recognize(
    weights: Weights | str | Path,
    source: SourceName | None = None,
    families: Iterable[Family] = FAMILIES.values(),
) -> CheckpointMatch | None:
    """Find the published network that a checkpoint matches best.

    Args:
        weights: The checkpoint's weights, or its path.
        source: The library whose names the checkpoint uses; default any.
        families: The families to search.

    Returns:
        The best match, or None if fewer than 30 % of the tensors match any network.
    """
    loaded = weights if isinstance(weights, Weights) else load_weights(weights)
    best = max(
        (
            match_checkpoint(loaded, member, source)
            for family in families
            for member in _members_with_distinct_weights(family)
            if _has_similar_size(loaded, member)
            and (source is None or SOURCES[source].layer_names(member.network()))
        ),
        key=lambda match: match.matched_fraction,
        default=None,
    )
    return best if best is not None and best.matched_fraction >= _MIN_MATCHED_FRACTION else None


def require_recognized(
    weights: Weights, source: SourceName | None = None, families: Iterable[Family] = FAMILIES.values()
) -> CheckpointMatch:
    """Find the published network that a checkpoint matches best, see recognize.

    Raises:
        DeployError: No network matches; the message says what the checkpoint looks like.
    """
    match = recognize(weights, source, families)
    if match is None:
        raise DeployError(
            f"{weights.origin} looks like {describe_checkpoint(weights)}.",
            code="checkpoint-unrecognized",
            fix="name its network with --family, --depth and --width; `deploykit families` lists them",
        )
    return match


def require_complete_match(match: CheckpointMatch) -> None:
    """Check that every tensor of the checkpoint and the network matches.

    Raises:
        DeployError: Lists the tensors that do not match, and the network that the checkpoint looks like.
    """
    if match.tensors.is_complete:
        return
    asked = member_options(match.member)
    mismatch = describe_mismatch(match.tensors, match.weights, match.network)
    problem = f"{match.weights.origin} does not fit {asked}: {mismatch}"
    nearest, looks = recognize(match.original_weights), describe_checkpoint(match.original_weights)
    classes = match.network.num_classes
    nearest_options = None if nearest is None else member_options(nearest.member)
    if nearest is not None and nearest_options == asked and nearest.network.num_classes == classes:
        raise DeployError(
            f"{problem}; the best match is {looks}.",
            code="checkpoint-unrecognized",
            fix="give a checkpoint of exactly this network; this one belongs to a variant that deploykit "
            "does not support",
        )
    raise DeployError(
        f"{problem}; it looks like {looks}.",
        code="checkpoint-unrecognized",
        fix="give the network and the --num-classes it was trained with; `deploykit import-weights FILE "
        "--check` prints what matches",
    )


def describe_checkpoint(weights: Weights) -> str:
    """Return a phrase that says what a checkpoint looks like: a network here, another kind, or unknown."""
    match = recognize(weights)
    if match is not None:
        percent = math.floor(100 * match.matched_fraction)
        partly = "" if match.tensors.is_complete else f", with {percent}% of its tensors"
        return f"{member_options(match.member)} under the names of {SOURCES[match.source].title}{partly}"
    for part, network in _OTHER_NETWORKS.items():
        if any(part in name for name in weights.state):
            return f"{network}, which deploykit does not support"
    names = ", ".join(list(weights.state)[:_LISTED_TENSORS])
    return f"an unknown network (its first tensors: {names})" if names else "an empty file"


@cache
def _members_with_distinct_weights(family: Family) -> tuple[Member, ...]:
    """Return the published members, one for each depth and width: weights do not depend on the side.

    The result is cached: members keep their networks, and error messages recognize a checkpoint again.
    """
    names: dict[tuple[float, float], str] = {}
    for name, scale in family.members.items():
        names.setdefault((scale.depth, scale.width), name)
    return tuple(choose_member(family, named=name) for name in names.values())


def _has_similar_size(weights: Weights, member: Member) -> bool:
    """Whether the numbers of tensors are similar: a quick test before names are compared."""
    expected, given = len(member.network().state_shapes), max(1, len(weights.state))
    return abs(math.log(expected / given)) <= -math.log(_MIN_COUNT_RATIO)
