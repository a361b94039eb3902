"""Convert dataclasses to JSON and back, checking every declared type, range and choice."""

import hashlib
from collections.abc import Mapping
from typing import TypeVar

import msgspec

T = TypeVar("T")
SEAL = "seal_sha256"
"""Key of the digest that to_sealed_json adds."""


def to_json(value: object, *, indent: int = 1) -> str:
    """Return dataclasses and plain values as JSON.

    Args:
        value: A dataclass or plain value.
        indent: Spaces per level; 0 for a single line.
    """
    text = msgspec.json.encode(value)
    return (msgspec.json.format(text, indent=indent) if indent else text).decode()


def from_json(text: str | bytes, kind: type[T]) -> T:
    """Return the dataclass that a JSON text describes.

    Raises:
        ValueError: The text does not describe one; the message says where.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise ValueError(str(error)) from error


def to_sealed_json(value: object) -> str:
    """Return a dataclass as JSON with a digest of its fields, which reveals later edits."""
    fields = msgspec.to_builtins(value)
    return msgspec.json.format(msgspec.json.encode({**fields, SEAL: _seal(fields)}), indent=1).decode()


def from_sealed_json(text: str | bytes, kind: type[T]) -> T:
    """Return the dataclass that to_sealed_json wrote.

    Raises:
        ValueError: The text does not describe one, or was edited.
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
    """Return the dataclass whose fields are given as plain values, for example from TOML.

    Raises:
        ValueError: The fields do not describe one; the message says where.
    """
    try:
        return msgspec.convert(dict(fields), kind)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


def from_strings(fields: Mapping[str, object], kind: type[T]) -> T:
    """Return the dataclass whose fields are given as strings, for example from ONNX metadata.

    Raises:
        ValueError: A field is missing, or its string is not a value of its type.
    """
    try:
        return msgspec.convert(dict(fields), kind, strict=False)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
