"""Dataclasses to JSON and back, checked: every type, range and choice that a field declares."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

T = TypeVar("T")


def to_json(value: object, *, indent: int = 1) -> str:
    """Dataclasses and plain values as JSON; indent 0 for one line."""
    text = msgspec.json.encode(value)
    return (msgspec.json.format(text, indent=indent) if indent else text).decode()


def from_json(text: str | bytes, kind: type[T]) -> T:
    """The dataclass that the text describes.

    Raises:
        ValueError: it doesn't; says where.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ValueError(str(error)) from error


def from_texts(fields: Mapping[str, object], kind: type[T]) -> T:
    """The dataclass whose fields are given as texts, as metadata has them.

    Raises:
        ValueError: a field is missing, or its text is no value of its type.
    """
    try:
        return msgspec.convert(dict(fields), kind, strict=False)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
