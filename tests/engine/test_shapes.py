import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.engine.shapes import (
    BatchRange,
    SideRange,
    format_batches,
    parse_profiles,
    round_up_batch,
    tightest_profile,
)
from deploykit.util.errors import DeployError


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("1,8,64", (1, 8, 64)), ("8", (8, 8, 8)), ("4,4,4", (4, 4, 4)), (" 1, 2 ,3", (1, 2, 3))],
)
def test_a_batch_range_is_parsed(text, sizes):
    batch = BatchRange.parse(text)
    assert (batch.min, batch.opt, batch.max) == sizes


@pytest.mark.parametrize(
    "text", ["", "1,8", "1,8,64,128", "eight", "1,8,64,", "1.5", "0", "-1", "8,1,64", "1,64,8"]
)
def test_an_invalid_batch_range_is_refused_with_an_example(text):
    with pytest.raises(DeployError) as caught:
        BatchRange.parse(text)
    assert "1,8,64" in caught.value.fix


def test_each_part_of_the_text_is_a_profile():
    assert [str(each) for each in parse_profiles("1;8;2,4,64")] == ["1", "8", "2 to 64"]
    assert format_batches(parse_profiles("1;8;2,4,64")) == "1, 8 or 2 to 64"
    assert format_batches(parse_profiles("8")) == "8"


@pytest.mark.parametrize("text", ["", "1;", "1;eight", "1;8,4", "8;1;8"])
def test_invalid_profiles_are_refused(text):
    with pytest.raises(DeployError):
        parse_profiles(text)


def test_a_side_range_is_parsed():
    side = SideRange.parse("224,300,380")
    assert (side.min, side.opt, side.max, str(side)) == (224, 300, 380, "224 to 380 px")
    assert 224 in side
    assert 381 not in side


@pytest.mark.parametrize("text", ["", "224,300", "300,224,380", "16,300,380", "224,300,9999", "big"])
def test_an_invalid_side_range_is_refused_with_an_example(text):
    with pytest.raises(DeployError) as caught:
        SideRange.parse(text)
    assert "224,300,380" in caught.value.fix


RANGES = st.lists(st.integers(1, 100), min_size=3, max_size=3).map(
    lambda sizes: BatchRange(**dict(zip(("min", "opt", "max"), sorted(sizes), strict=True)))
)


@given(st.lists(RANGES, min_size=1, max_size=5), st.integers(1, 120))
def test_the_tightest_range_that_includes_a_batch_is_chosen(ranges, size):
    found = tightest_profile(ranges, size)
    holding = [each.max - each.min for each in ranges if each.min <= size <= each.max]
    if found is None:
        assert not holding
    else:
        assert size in ranges[found]
        assert ranges[found].max - ranges[found].min == min(holding)


@given(st.lists(RANGES, min_size=1, max_size=5), st.integers(1, 120))
def test_a_batch_is_rounded_up_to_the_next_accepted_size(ranges, size):
    filled = round_up_batch(ranges, size)
    held = [n for n in range(size, 101) if tightest_profile(ranges, n) is not None]
    assert filled == (held[0] if held else max(each.max for each in ranges))
