"""The names that `import deploykit` offers."""

import inspect
import typing
from collections.abc import Iterator

import pytest

import deploykit

CALLED_CLASSES = (deploykit.Bundle, deploykit.Client, deploykit.Engine)
"""Classes whose methods users call; the others are values, whose attributes a type checker follows."""


def public_functions() -> Iterator[tuple[str, object]]:
    for name in deploykit.__all__:
        if inspect.isfunction(found := getattr(deploykit, name)):
            yield name, found
    for each in CALLED_CLASSES:
        for name, member in vars(each).items():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if inspect.isfunction(function) and (name in ("__init__", "__call__") or name[0] != "_"):
                yield f"{each.__name__}.{name}", function


def own_types(hint: object) -> Iterator[type]:
    """The classes of deploykit in a type, `list[Record] | None` for example."""
    if isinstance(hint, type) and hint.__module__.partition(".")[0] == "deploykit":
        yield hint
    for argument in typing.get_args(hint):
        for part in argument if isinstance(argument, list | tuple) else (argument,):
            yield from own_types(part)


@pytest.mark.parametrize(("name", "function"), list(public_functions()))
def test_every_type_in_a_public_signature_is_exported(name, function):
    types = [each for hint in typing.get_type_hints(function).values() for each in own_types(hint)]
    assert {each.__name__ for each in types} <= set(deploykit.__all__)
    assert all(getattr(deploykit, each.__name__) is each for each in types)


def test_the_walk_finds_types_inside_unions_and_collections():
    hint = list[deploykit.Record] | None
    assert list(own_types(hint)) == [deploykit.Record]
    assert len(list(public_functions())) > 30


@pytest.mark.parametrize("name", deploykit.__all__)
def test_every_public_name_loads(name):
    assert getattr(deploykit, name) is not None
