"""The command line that the user probably meant, made from the one that failed.

Two mistakes are recognized everywhere: a misspelled word (a command, an option, a choice, a family), and a
value in the wrong place (`export 3` for `export --phi 3`).
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

import click

from deploykit.cli.commands import COMMANDS, UnknownCommandError, load_command
from deploykit.util.errors import DeployError

Mistake = click.UsageError | DeployError


def suggest(mistake: Mistake, arguments: Sequence[str]) -> str | None:
    """Return a command to run instead, or None where nothing is close.

    Args:
        mistake: Why the command line was refused.
        arguments: The command line without the program's name.
    """
    for rule in _RULES:
        if (corrected := rule(mistake, arguments)) is not None:
            return shlex.join(("deploykit", *corrected))
    return None


def _correct_command(mistake: Mistake, arguments: Sequence[str]) -> list[str] | None:
    if not isinstance(mistake, UnknownCommandError):
        return None
    close = _closest_command(mistake.name)
    return None if close is None else _replaced(arguments, [mistake.name], [close])


def _closest_command(typed: str) -> str | None:
    """Return the command with a close name, or else the only one whose summary has the word."""
    word = typed.lower().replace("_", "-")
    inside = [
        name
        for name in COMMANDS
        if word in name.split("-") or name.startswith(word) or (len(name) > 3 and word.startswith(name))
    ]
    verbs = [name for name, summary in COMMANDS.items() if word == summary.split()[0].lower()]
    if found := inside or verbs[:1] or get_close_matches(word, COMMANDS):
        return found[0]
    described = [
        name for name, summary in COMMANDS.items() if word in re.findall(r"[a-z0-9]+", summary.lower())
    ]
    return described[0] if len(described) == 1 else None


def _correct_option(mistake: Mistake, arguments: Sequence[str]) -> list[str] | None:
    if not isinstance(mistake, click.NoSuchOption) or mistake.ctx is None:
        return None
    known = [name for each in mistake.ctx.command.params for name in (*each.opts, *each.secondary_opts)]
    if not (close := get_close_matches(mistake.option_name, known)):
        return None
    return [
        f"{close[0]}{each.removeprefix(mistake.option_name)}"
        if each.partition("=")[0] == mistake.option_name
        else each
        for each in arguments
    ]


def _correct_choice(mistake: Mistake, arguments: Sequence[str]) -> list[str] | None:
    if not isinstance(mistake, click.BadParameter) or mistake.param is None:
        return None
    for option, value in _pairs(arguments):
        if option in mistake.param.opts:
            if isinstance(mistake.param.type, click.Choice):
                close = get_close_matches(value.lower(), [str(each) for each in mistake.param.type.choices])
                return _replaced(arguments, [option, value], [option, close[0]]) if close else None
            return _placed(value, [option, value], arguments)
    return None


def _place_extra_argument(mistake: Mistake, arguments: Sequence[str]) -> list[str] | None:
    extra = re.search(r"unexpected extra arguments? \((.*)\)", str(getattr(mistake, "message", "")))
    return None if extra is None else _placed(extra[1], [extra[1]], arguments)


def _place_missing_option(mistake: Mistake, arguments: Sequence[str]) -> list[str] | None:
    if not isinstance(mistake, click.MissingParameter) or mistake.param is None:
        return None
    for argument in arguments:
        if any(option in mistake.param.opts for meaning in _meanings(argument) for option, _ in meaning):
            return _placed(argument, [argument], arguments)
    return None


def _correct_family(mistake: Mistake, arguments: Sequence[str]) -> list[str] | None:
    if not isinstance(mistake, DeployError) or mistake.code != "unknown-family":
        return None
    for option, value in _pairs(arguments):
        if option == "--family":
            return _placed(value, [option, value], arguments)
    return None


def _build_first(mistake: Mistake, arguments: Sequence[str]) -> list[str] | None:
    """An engine's place that holds a model: the engine has to be built."""
    if not isinstance(mistake, DeployError) or mistake.code != "manifest-not-found":
        return None
    from deploykit.util.local_gpu import local_gpu

    models = [each for each in arguments if each.endswith(".onnx") and Path(each).is_file()]
    here = "cpu" if local_gpu() is None else "local"
    return ["build-engine", "--onnx", models[0], "--gpu", here] if models else None


_RULES: tuple[Callable[[Mistake, Sequence[str]], list[str] | None], ...] = (
    _correct_command,
    _correct_option,
    _correct_choice,
    _place_extra_argument,
    _place_missing_option,
    _correct_family,
    _build_first,
)


def _placed(value: str, old: Sequence[str], arguments: Sequence[str]) -> list[str] | None:
    """Return the arguments with the value under the option that takes such values."""
    command = next((each for each in arguments if each in COMMANDS), None)
    if command is None:
        return None
    options = {name for each in load_command(command).params for name in each.opts}
    for meaning in _meanings(value):
        new = [word for option, text in meaning if option in options for word in (option, text)]
        if new and new != list(old):
            return _replaced(arguments, old, new)
    return None


def _meanings(value: str) -> Iterator[list[tuple[str, str]]]:
    """Yield what the value may be: options with their values."""
    if re.fullmatch(r"\d+(\.\d+)?", value):
        yield [("--phi", value)]
    if value.endswith(".onnx"):
        yield [("--onnx", value)]
    if value.endswith((".pth", ".pt", ".safetensors")):
        yield [("--weights", value)]
    if Path(value).is_dir() or value.endswith(".npz"):
        yield [("--data", value)]
    yield from _network_meanings(value)
    from deploykit.gpu_catalog.gpus import look_up_gpu

    if look_up_gpu(value) is not None:
        yield [("--gpu", value)]


def _network_meanings(value: str) -> Iterator[list[tuple[str, str]]]:
    """Yield a member (`b3`), a family with one (`efficientnet-b3`), or a family with a close name."""
    from deploykit.networks.families.registry import DEFAULT_FAMILY, FAMILIES

    typed = value.lower().replace("_", "-")
    if typed in FAMILIES[DEFAULT_FAMILY].members:
        yield [("--member", typed)]
    for family in sorted(FAMILIES, key=len, reverse=True):
        rest = typed.removeprefix(family).strip("-")
        if typed.startswith(family) and (rest in FAMILIES[family].members or not rest):
            yield [("--family", family), *([("--member", rest)] if rest else [])]
    if close := get_close_matches(typed, FAMILIES):
        yield [("--family", close[0])]


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each option with its value, written with a space or an equals sign."""
    for option, value in zip(arguments, (*arguments[1:], ""), strict=True):
        name, equals, text = option.partition("=")
        yield (name, text) if equals else (option, value)


def _replaced(arguments: Sequence[str], old: Sequence[str], new: Iterable[str]) -> list[str]:
    """Return the arguments with the first run of old words replaced."""
    joined = [*arguments]
    if len(old) == 2 and "=".join(old) in joined:
        old = ["=".join(old)]
    for start in range(len(joined)):
        if joined[start : start + len(old)] == list(old):
            return [*joined[:start], *new, *joined[start + len(old) :]]
    return joined
