"""The list of commands, loaded one at a time, and the options that all of them share."""

import importlib
from collections.abc import Mapping

import click
from click.shell_completion import CompletionItem

from deploykit.cli.notes import Verbosity, note, set_verbosity

# In the order in which a newcomer meets them. The module build_engine defines the command build-engine.
GROUPS: Mapping[str, Mapping[str, str]] = {
    "Models": {
        "scale": "Show a family's published networks, or one scaled network.",
        "families": "List the network families.",
        "export": "Build a network at any phi and write it as ONNX.",
        "import-weights": "Recognize a checkpoint's network and write it as ONNX.",
    },
    "INT8": {
        "calibrate": "Measure activation ranges on images.",
        "quantize": "Write an INT8 ONNX model with explicit Q/DQ.",
        "sensitivity": "Show which blocks cost accuracy in INT8.",
    },
    "Engines": {
        "build-engine": "Compile an exported model to an FP16, INT8 or FP32 engine.",
        "inspect": "Show an engine's facts and compiled layers.",
        "bundle": "Pack a model and its engines into one file for many machines.",
        "check": "Check whether this machine can run an engine.",
        "doctor": "Show what is installed and what this machine can build and run.",
    },
    "Measure": {
        "eval": "Measure a model's accuracy and its loss against FP32.",
        "bench": "Measure an engine's latency or throughput on this machine.",
        "compare": "Compare two measurements that were made the same way.",
        "study": "Measure a family over phi, precision, batch size and scaling axis.",
        "report": "Write an HTML report from records.",
    },
    "Decide": {
        "fit": "Find the largest phi that meets a target on a GPU.",
        "search-scaling": "Search the grid of scaling coefficients alpha, beta and gamma.",
        "gpus": "List the known GPUs.",
    },
    "Serve": {
        "serve": "Serve engines with Triton, or write a Triton model repository.",
        "client": "Send images to a server.",
    },
}
COMMANDS = {name: summary for group in GROUPS.values() for name, summary in group.items()}

# Old name -> new name; the old ones are accepted in this release.
RENAMED_OPTIONS = {
    "--int8-spare": "--int8-float-budget",
    "--drain": "--shutdown-timeout",
    "--ready": "--startup-timeout",
}


class UnknownCommandError(click.UsageError):
    """A command that does not exist.

    Attributes:
        name: The command as typed.
    """

    def __init__(self, name: str, ctx: click.Context) -> None:
        super().__init__(f"There is no command {name!r}.", ctx)
        self.name = name


class Commands(click.Group):
    """Loads a command's module when it is called, so that help and completion import nothing heavy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        command = self.get_command(ctx, args[0])
        if command is None and not ctx.resilient_parsing and not args[0].startswith("-"):
            raise UnknownCommandError(args[0], ctx)
        if command is None:
            return super().resolve_command(ctx, args)
        return args[0], command, [_renamed(each, command) for each in args[1:]]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, COMMANDS))
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), summary) for name, summary in group.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [
            CompletionItem(name, help=summary)
            for name, summary in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


def load_command(name: str) -> click.Command:
    """Import the command of that name, with the options that all commands share."""
    module = importlib.import_module(f"deploykit.cli.{name.replace('-', '_')}")
    command: click.Command = module.command
    if not any(each in command.params for each in VERBOSITY_OPTIONS):
        command.params.extend(VERBOSITY_OPTIONS)
    return command


def _set_quiet(_context: click.Context, _option: click.Parameter, given: bool) -> None:
    if given:
        set_verbosity(Verbosity.QUIET)


def _set_verbose(_context: click.Context, _option: click.Parameter, given: bool) -> None:
    if given:
        set_verbosity(Verbosity.VERBOSE)


VERBOSITY_OPTIONS: tuple[click.Parameter, ...] = (
    click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=_set_quiet,
        help="Print the answer alone, without notes and progress.",
    ),
    click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        callback=_set_verbose,
        help="Print all notes rather than three, and the log of Triton.",
    ),
)


def _renamed(argument: str, command: click.Command) -> str:
    """Return the argument with the new name of its option."""
    old, equals, value = argument.partition("=")
    new = RENAMED_OPTIONS.get(old)
    known = {name for each in command.params for name in each.opts}
    if new is None or new not in known or old in known:
        return argument
    note(f"{old} is now {new}; the next release drops the old name.", important=True)
    return f"{new}{equals}{value}"
