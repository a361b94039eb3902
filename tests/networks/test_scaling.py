import math

import pytest
from refusals import refuses

from deploykit.networks.scaling import (
    MIN_SIDE_PX,
    RULES,
    Coefficients,
    Scale,
    format_phi,
    scale_for,
)


# The reference implementation's efficientnet_params; timm's models have the same.
@pytest.mark.parametrize(
    ("phi", "width", "depth", "side_px"),
    [
        (0, 1.0, 1.0, 224),
        (1, 1.0, 1.1, 240),
        (2, 1.1, 1.2, 260),
        (3, 1.2, 1.4, 300),
        (4, 1.4, 1.8, 380),
        (5, 1.6, 2.2, 456),
        (6, 1.8, 2.6, 528),
        (7, 2.0, 3.1, 600),
    ],
)
def test_an_integer_phi_is_the_published_member(phi, width, depth, side_px):
    assert scale_for(phi) == Scale(width=width, depth=depth, side_px=side_px)


# Low * (high / low)^fraction, by hand; sides then go to the nearest multiple of 4.
@pytest.mark.parametrize(
    ("phi", "width", "depth", "side_px"),
    [
        (0.5, 1.0, 1.048809, 232),  # side: sqrt(224 * 240) = 231.9
        (2.5, 1.148913, 1.296148, 280),  # sqrt(260 * 300) = 279.3
        (6.25, 1.848042, 2.716881, 544),  # 528 * (600 / 528)^0.25 = 545.1
    ],
)
def test_members_are_interpolated_log_linearly(phi, width, depth, side_px):
    scale = scale_for(phi)
    assert scale.width == pytest.approx(width, rel=1e-6)
    assert scale.depth == pytest.approx(depth, rel=1e-6)
    assert scale.side_px == side_px


# 1.2^phi, 1.1^phi and 224 * 1.15^phi, by hand; sides then go to the nearest multiple of 4.
@pytest.mark.parametrize(
    ("phi", "width", "depth", "side_px"),
    [
        (0, 1.0, 1.0, 224),
        (1, 1.1, 1.2, 256),  # 257.6 px
        (3, 1.331, 1.728, 340),  # 340.7 px, where the published B3 has 300
        (-2, 0.826446, 0.694444, 168),  # 169.4 px
        (-8, 0.466507, 0.232568, 72),  # 73.2 px, the smallest
        (12, 3.138428, 8.916100, 1200),  # 1198.5 px, the largest
    ],
)
def test_the_formula_is_that_of_the_paper(phi, width, depth, side_px):
    scale = scale_for(phi, rule="formula")
    assert scale.width == pytest.approx(width, rel=1e-6)
    assert scale.depth == pytest.approx(depth, rel=1e-6)
    assert scale.side_px == side_px


def test_increasing_phi_by_one_about_doubles_the_macs():
    # arXiv:1905.11946, equation 3.
    found = Coefficients()
    factor = found.depth * found.width**2 * found.side**2
    assert factor == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(("rule", "low", "high"), [("published", 0, 7), ("formula", -8, 12)])
def test_a_larger_phi_is_not_smaller_in_any_dimension(rule, low, high):
    steps = 20 * (high - low)
    scales = [scale_for(low + (high - low) * step / steps, rule=rule) for step in range(steps + 1)]
    for field in ("width", "depth", "side_px"):
        values = [getattr(scale, field) for scale in scales]
        assert values == sorted(values)
        assert values[0] < values[-1]


@pytest.mark.parametrize("rule", RULES)
def test_every_member_is_large_enough_for_the_network(rule):
    low = {"published": 0.0, "formula": -8.0}[rule]
    assert scale_for(low, rule=rule).side_px >= MIN_SIDE_PX


def test_a_phi_near_an_integer_gives_a_scale_near_that_member():
    near, at = scale_for(4 - 1e-9), scale_for(4)
    assert near.width == pytest.approx(at.width)
    assert near.depth == pytest.approx(at.depth)
    assert near.side_px == at.side_px


@pytest.mark.parametrize("phi", [-0.001, 7.001, -8, 12])
def test_a_phi_outside_the_published_range_is_refused_with_the_rule_that_allows_it(phi):
    with refuses("invalid-phi") as caught:
        scale_for(phi)
    assert "--rule formula" in caught.value.fix


@pytest.mark.parametrize("phi", [100, -9, math.nan, math.inf, -math.inf])
def test_a_phi_outside_every_rule_is_refused_with_the_range(phi):
    with refuses("invalid-phi") as caught:
        scale_for(phi)
    assert caught.value.fix == "give --phi from 0 to 7"
    with refuses("invalid-phi") as outside_formula:
        scale_for(phi, rule="formula")
    assert "between -8 and 12" in outside_formula.value.problem


@pytest.mark.parametrize(
    ("phi", "label"), [(3, "3"), (3.0, "3"), (2.5, "2.5"), (-1.0, "-1"), (10, "10"), (0.0, "0"), (-0.0, "0")]
)
def test_phi_is_formatted_as_people_write_it(phi, label):
    assert format_phi(phi) == label


def test_different_phis_are_formatted_differently():
    assert format_phi(3) != format_phi(3 - 1e-12)
