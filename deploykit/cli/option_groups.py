"""Groups of options that several commands share, each passed to the command as one typed value."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

R = TypeVar("R")
Option = Callable[[Callable[..., Any]], Callable[..., Any]]


def option_group(
    name: str, build: Callable[..., object], options: Sequence[Option]
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Return a decorator that adds options to a command, which gets their values as one argument.

    Args:
        name: The command's argument.
        build: Makes its value; the parameters have the names of the options.
        options: What click.option returns, in the order of the help.
    """
    parameters = tuple(inspect.signature(build).parameters)

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(command)
        def with_group(**arguments: Any) -> R:
            values = {parameter: arguments.pop(parameter) for parameter in parameters}
            return command(**{name: build(**values)}, **arguments)

        decorated: Callable[..., R] = with_group
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
