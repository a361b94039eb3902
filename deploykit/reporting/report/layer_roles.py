"""The roles of layers in a network, and the time that each role takes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deploykit.bench.layers.layer_profile import LayerProfile
from deploykit.bench.layers.layer_time import LayerTime, sum_if_all_known
from deploykit.stats.estimate import Estimate

# Layers that compute are recognized by timm's names for EfficientNet, the others by their ONNX operator.
_ROLE_BY_NAME = (
    (re.compile(r"\.conv_dw"), "depthwise"),
    (re.compile(r"\.conv_pwl?"), "pointwise"),
    (re.compile(r"^blocks\.\d+\.\d+\.conv(_exp)?\b"), "fused"),
    (re.compile(r"\.se\."), "squeeze-excite"),
    (re.compile(r"^(conv_stem|conv_head|global_pool|classifier)"), "stem and head"),
)
_ROLE_BY_OPERATOR = (
    (re.compile(r"Reorder|Transpose|Reshape|Flatten|QuantizeLinear|Cast|[Rr]eformat"), "layout and types"),
    (re.compile(r"QuickGelu|Silu|Swish|Sigmoid|Relu|Clip"), "separate activations"),
)
OTHER_PRODUCTS, OTHER = "other products", "other layers"
LAYER_ROLES = (
    *(role for _, role in _ROLE_BY_NAME),
    OTHER_PRODUCTS,
    *(role for _, role in _ROLE_BY_OPERATOR),
    OTHER,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleTime:
    """All layers of one role in one network.

    Attributes:
        time, rest: Time of these layers and of all other layers, milliseconds.
        size_bytes, bound_ms: None if it is unknown for one of the layers.
    """

    network: str
    role: str
    time: Estimate
    rest: Estimate
    macs: int
    size_bytes: int | None
    bound_ms: float | None

    @property
    def network_ms(self) -> float:
        """Time of the whole network."""
        return self.time.value + self.rest.value

    @property
    def percent(self) -> Estimate:
        """Share of the network's time; each end combines these layers' end with the others' opposite one."""

        def share(these: float | None, others: float | None) -> float | None:
            return None if these is None or others is None else 100 * these / (these + others)

        return Estimate(
            value=100 * self.time.value / self.network_ms,
            low=share(self.time.low, self.rest.high),
            high=share(self.time.high, self.rest.low),
        )

    @property
    def times_bound(self) -> str:
        """`2.0`, with an asterisk if the time is below the bound; empty if the bound is unknown."""
        if not self.bound_ms:
            return ""
        return f"{self.time.value / self.bound_ms:.1f}{' *' if self.time.value < self.bound_ms else ''}"


def find_role(layer: LayerTime) -> str:
    """Return the role of a layer, one of LAYER_ROLES."""
    for pattern, role in _ROLE_BY_OPERATOR:
        if pattern.search(layer.kind):
            return role
    for pattern, role in _ROLE_BY_NAME:
        if layer.node is not None and pattern.search(layer.node):
            return role
    return OTHER_PRODUCTS if layer.macs else OTHER


def sum_roles(profile: LayerProfile, network: str) -> list[RoleTime]:
    """Return the time of each role that a profile has layers of."""
    times = []
    for role in LAYER_ROLES:
        layers = [layer for layer in profile.layers if find_role(layer) == role]
        if layers:
            times.append(
                RoleTime(
                    network=network,
                    role=role,
                    time=_sum_time(layers),
                    rest=_sum_time([layer for layer in profile.layers if find_role(layer) != role]),
                    macs=sum(layer.macs for layer in layers),
                    size_bytes=sum_if_all_known([layer.size_bytes for layer in layers]),
                    bound_ms=sum_if_all_known([layer.bound_ms for layer in layers]),
                )
            )
    return times


def _sum_time(layers: Sequence[LayerTime]) -> Estimate:
    return Estimate(
        value=sum(layer.ms for layer in layers),
        low=sum_if_all_known([layer.low_ms for layer in layers]),
        high=sum_if_all_known([layer.high_ms for layer in layers]),
    )
