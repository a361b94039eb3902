"""`deploykit`: finds the command, and turns what goes wrong into a sentence, a fix and an exit status."""

import importlib
import io
import os
import sys
import warnings
from typing import NoReturn

import click

from deploykit import __version__
from deploykit.cli.interrupts import ignore_interrupts, prepare_interrupts
from deploykit.cli.terminal import visibly
from deploykit.util.errors import DeployError

# In the order a newcomer meets them; each module has a `command`, imported when it is called.
COMMANDS = {
    "scale": ("scale", "Print a family's members, or one network."),
    "families": ("families", "List the families of networks."),
    "export": ("export", "Build a model at any phi and write it as ONNX."),
    "import-weights": ("import_weights", "Tell which network a checkpoint is of, and write it as ONNX."),
    "calibrate": ("calibrate", "Measure activation ranges for INT8 on images."),
    "quantize": ("quantize", "Write the model as INT8 ONNX, with explicit Q/DQ."),
    "sensitivity": ("sensitivity", "Show which blocks cost accuracy in INT8."),
    "build-engine": ("build_engine", "Compile an exported model to an FP16, INT8 or FP32 engine."),
    "inspect": ("inspect", "Print what an engine is and what its compiler made."),
    "bundle": ("bundle", "Pack a model and plans of it into one file for many machines."),
    "check": ("check", "Say whether this machine can run an engine."),
    "eval": ("eval", "Measure a model's accuracy, and its loss against FP32."),
    "bench": ("bench", "Measure an engine on this machine, in one of MLPerf's scenarios."),
    "compare": ("compare", "Say how one measurement relates to another."),
    "study": ("study", "Measure EfficientNets over phi, precision, batch and scaling axis."),
    "report": ("report", "Write one HTML page of what records show."),
    "fit": ("fit", "Find the largest phi that meets a target on a GPU."),
    "search-scaling": ("search_scaling", "Search the grid that a compound rule begins with."),
    "serve": ("serve", "Serve engines with Triton, or write its model repository."),
    "client": ("client", "Send images to a server."),
    "gpus": ("gpus", "List the GPUs that are known."),
    "doctor": ("doctor", "Say what is installed and what this machine can do."),
}
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class Commands(click.Group):
    """Loads a command's module when it is called: help must not import torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"deploykit.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, purpose) in COMMANDS.items()])


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Each command has --help with an example, and --json.",
)
@click.version_option(__version__, prog_name="deploykit")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """From a compute budget to a served model.

    \b
    Example:
      deploykit export --phi 3
      deploykit build-engine --int8
      deploykit fit --gpu T4 --max-latency 10ms
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> NoReturn:
    """Runs the command line and exits."""
    prepare_interrupts()
    debugging = "DEPLOYKIT_DEBUG" in os.environ
    _prepare_streams()
    with visibly():
        _run(debugging=debugging)


def _run(*, debugging: bool) -> NoReturn:
    if not debugging:
        warnings.simplefilter("ignore")  # libraries' hints to programmers; what matters is raised
    try:
        status = cli.main(prog_name="deploykit", standalone_mode=False)
        sys.stdout.flush()
    except DeployError as error:
        _fail(error.problem, error.code, error.fix, error.exit_code)
    except click.UsageError as error:
        _fail(error.format_message(), "usage", _way_out(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        ignore_interrupts()
        print("stopped; no result was written", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        _discard_output()
        sys.exit(0)
    except MemoryError:
        _fail(
            "There is not enough memory for this.",
            "out-of-memory",
            "give a smaller --batch, --side or --phi",
            BAD_INPUT,
        )
    except OSError as error:
        if debugging:
            raise
        _discard_output()
        _fail(
            f"The system refused: {error}.",
            "system-error",
            "make room there, or give another place",
            BAD_INPUT,
        )
    except Exception as error:
        if debugging:
            raise
        _fail(
            f"deploykit failed in a way it should not: {type(error).__name__}: {error}",
            "internal-error",
            "run it again with DEPLOYKIT_DEBUG=1 and report what it prints",
            FAILED,
        )
    sys.exit(status if isinstance(status, int) else 0)


def _way_out(error: click.UsageError) -> str:
    if error.ctx is None:
        return "deploykit --help shows what it takes"
    path, options = error.ctx.command_path, [name for each in error.ctx.command.params for name in each.opts]
    if "unexpected extra argument" in error.format_message() and "--onnx" in options:
        return f"name a model's file with --onnx; {path} --help shows what else it takes"
    return f"{path} --help shows what it takes"


def _prepare_streams() -> None:
    if sys.stdout is None:  # the caller closed it
        sys.stdout = io.TextIOWrapper(io.BytesIO())
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.BytesIO())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name the terminal can't show is no failure


def _fail(problem: str, code: str, fix: str, status: int) -> NoReturn:
    print(f"error: {problem} [{code}]\n  fix: {fix}", file=sys.stderr)
    sys.exit(status)


def _discard_output() -> None:
    """Lets the interpreter's last flush of standard output succeed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
