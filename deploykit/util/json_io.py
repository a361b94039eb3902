"""Dataclasses to JSON and back, checked: every type, range and choice that a field declares."""

import hashlib
from collections.abc import Mapping
from typing import TypeVar

import msgspec

T = TypeVar("T")
SEAL = "seal_sha256"


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


def to_sealed_json(value: object) -> str:
    """As to_json, with a digest of everything beside it, which shows what was altered since."""
    fields = msgspec.to_builtins(value)
    return msgspec.json.format(msgspec.json.encode({**fields, SEAL: _seal(fields)}), indent=1).decode()


def from_sealed_json(text: str | bytes, kind: type[T]) -> T:
    """What to_sealed_json wrote.

    Raises:
        ValueError: the text describes nothing of the kind, or was altered.
    """
    try:
        fields = msgspec.json.decode(text, type=dict[str, object])
        seal = fields.pop(SEAL, None)
        value = msgspec.convert(fields, kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ValueError(str(error)) from error
    if seal != _seal(fields):
        raise ValueError("it was altered")
    return value


def _seal(fields: Mapping[str, object]) -> str:
    return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()


def from_builtins(fields: Mapping[str, object], kind: type[T]) -> T:
    """The dataclass whose fields are given as plain values, as TOML has them.

    Raises:
        ValueError: they don't describe it; says where.
    """
    try:
        return msgspec.convert(dict(fields), kind)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


def from_strings(fields: Mapping[str, object], kind: type[T]) -> T:
    """The dataclass whose fields are given as texts, as metadata has them.

    Raises:
        ValueError: a field is missing, or its text is no value of its type.
    """
    try:
        return msgspec.convert(dict(fields), kind, strict=False)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
