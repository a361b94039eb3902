"""Networks scaled along one axis match the paper's."""

import pytest
from refusals import refuses

from deploykit.networks.families.efficientnet import FAMILY, efficientnet
from deploykit.networks.scaling import AXES, Scale, scale_for, stretched_axis
from deploykit.networks.single_axis import single_axis_scale


@pytest.mark.parametrize(
    ("axis", "multiple"), [("depth", 4.0), ("width", 2.0), ("side", 2.0)], ids=["depth", "width", "side"]
)
def test_the_networks_of_the_paper_are_found(axis, multiple):
    """arXiv:1905.11946, Table 7: d = 4, w = 2 and r = 2 give 1.8, 1.8 and 1.9 G from B0's 0.4 G."""
    found = single_axis_scale(FAMILY, axis, macs=round(efficientnet(scale_for(3)).macs))
    value = found.side_px / 224 if axis == "side" else getattr(found, axis)
    assert value == pytest.approx(multiple, rel=0.12)
    assert stretched_axis(found) == axis


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("phi", [1, 2, 3, 4])
def test_the_macs_are_as_near_as_the_axis_allows(axis, phi):
    macs = efficientnet(scale_for(phi)).macs
    assert efficientnet(single_axis_scale(FAMILY, axis, macs=macs)).macs == pytest.approx(macs, rel=0.05)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("macs", [10**8, 10**12])
def test_an_unattainable_budget_is_refused(axis, macs):
    with refuses("axis-budget-unattainable"):
        single_axis_scale(FAMILY, axis, macs=macs)


def test_the_baseline_is_the_smallest_network():
    assert single_axis_scale(FAMILY, "side", macs=efficientnet(scale_for(0)).macs) == scale_for(0)


def test_a_scale_that_differs_along_several_axes_or_none_has_no_axis():
    assert stretched_axis(scale_for(0)) is None
    assert stretched_axis(scale_for(3)) is None
    assert stretched_axis(Scale(depth=1.1, width=1.0, side_px=240)) is None
