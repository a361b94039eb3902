"""Conversion between dataclasses and JSON."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from msgspec import Meta

from deploykit.util.json_io import from_json, from_sealed_json, from_strings, to_json, to_sealed_json


@dataclass(frozen=True, kw_only=True)
class Point:
    x: Annotated[float, Meta(ge=0)]
    kind: Literal["a", "b"] = "a"
    tags: tuple[int, ...] = ()


def test_a_dataclass_survives_the_round_trip():
    point = Point(x=1.5, kind="b", tags=(1, 2))
    assert from_json(to_json(point), Point) == point
    assert from_json(to_json(point, indent=0), Point) == point
    assert "\n" not in to_json(point, indent=0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"x": "1"}',
        '{"x": -1}',
        '{"x": NaN}',
        '{"x": 1, "kind": "c"}',
        '{"x": 1',
        "[" * 10**5,
    ],
)
def test_undeclared_values_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        from_json(text, Point)


def test_strings_become_the_declared_types():
    assert from_strings({"x": "2.5", "kind": "b"}, Point) == Point(x=2.5, kind="b")


@pytest.mark.parametrize("fields", [{}, {"x": "much"}, {"x": "-1"}, {"x": "1", "kind": "c"}])
def test_strings_of_other_types_are_refused(fields):
    with pytest.raises(ValueError, match=r"."):
        from_strings(fields, Point)


def test_json_never_contains_nan():
    assert "nan" not in to_json({"x": math.nan}).lower()


@dataclass(frozen=True, kw_only=True)
class Sealed:
    name: str
    sizes: tuple[float, ...] = (1.0, 0.1)


def test_a_sealed_file_is_read_back_unless_it_was_edited():
    text = to_sealed_json(Sealed(name="é"))
    assert from_sealed_json(text, Sealed) == Sealed(name="é")
    assert '"name": "é"' in text
    for altered in (
        text.replace("0.1", "0.2"),
        text.replace("{", '{"more": 1,', 1),
        text.replace("é", "e"),
        text.replace("seal", "sea"),
    ):
        with pytest.raises(ValueError, match="altered"):
            from_sealed_json(altered, Sealed)
    with pytest.raises(ValueError, match=r"expected|missing|truncated"):
        from_sealed_json(text[:-3], Sealed)
