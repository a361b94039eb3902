"""Comparing a checkpoint's tensors with those a network needs, by name, shape and value."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploykit.networks.architecture.network import Network
from deploykit.networks.checkpoints.weights import Weights
from deploykit.util.errors import DeployError

_MAX_LISTED_NAMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMatch:
    """Names of tensors, by how they match a network.

    Attributes:
        matched: In the checkpoint and the network, with equal shapes.
        missing: In the network only.
        misshaped: In both, with different shapes.
        unknown: In the checkpoint only.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    misshaped: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of the checkpoint and of the network matches."""
        return not (self.missing or self.misshaped or self.unknown)


def match_tensors(weights: Weights, network: Network) -> TensorMatch:
    """Sort the tensors of a checkpoint and of a network by whether names and shapes match."""
    expected, given = network.state_shapes, weights.state
    common = [name for name in expected if name in given]
    return TensorMatch(
        matched=tuple(name for name in common if given[name].shape == expected[name]),
        missing=tuple(name for name in expected if name not in given),
        misshaped=tuple(name for name in common if given[name].shape != expected[name]),
        unknown=tuple(name for name in given if name not in expected),
    )


def require_tensor_match(weights: Weights, network: Network) -> None:
    """Check that the weights are exactly those the network needs, with valid values.

    Raises:
        DeployError: A tensor is missing, has another shape, is unknown, or holds invalid values.
    """
    match = match_tensors(weights, network)
    if not match.is_complete:
        raise DeployError(
            f"{weights.origin} does not fit this network: {describe_mismatch(match, weights, network)}.",
            code="checkpoint-network-mismatch",
            fix="give the --phi and --num-classes these weights were trained with",
        )
    _require_valid_values(weights)


def describe_mismatch(match: TensorMatch, weights: Weights, network: Network) -> str:
    """Return a phrase that lists the tensors that do not match, for an error message."""
    problems = {
        "missing": match.missing,
        "of another shape": [
            f"{name} {weights.state[name].shape} instead of {network.state_shapes[name]}"
            for name in match.misshaped
        ],
        "unknown": match.unknown,
    }
    return "; ".join(
        f"{len(names)} {kind} ({join_names(names)})" for kind, names in problems.items() if names
    )


def join_names(names: Sequence[str]) -> str:
    """Return the first five names, and how many more there are."""
    shown = ", ".join(names[:_MAX_LISTED_NAMES])
    remaining = len(names) - _MAX_LISTED_NAMES
    return shown if remaining <= 0 else f"{shown}, and {remaining} more"


def _require_valid_values(weights: Weights) -> None:
    """Check that every value is finite and that no variance is negative."""
    state = weights.state
    nonfinite = [name for name, array in state.items() if not np.isfinite(array).all()]
    negative = [name for name, array in state.items() if name.endswith("running_var") and array.min() < 0]
    for names, fault in ((nonfinite, "non-finite values"), (negative, "negative variances")):
        if names:
            raise DeployError(
                f"{weights.origin} contains {fault} in {join_names(names)}.",
                code="checkpoint-values-invalid",
                fix="give a checkpoint of a training run that converged",
            )
