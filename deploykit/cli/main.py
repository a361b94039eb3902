"""The program `deploykit`: run a command, and turn a failure into a sentence, a fix and an exit status."""

import io
import json
import os
import sys
import warnings
from typing import NoReturn

import click

from deploykit import __version__
from deploykit.cli.commands import VERBOSITY_OPTIONS, Commands
from deploykit.cli.interrupts import ignore_interrupts, prepare_interrupts
from deploykit.cli.notes import collected_notes
from deploykit.cli.suggestions import suggest
from deploykit.cli.terminal import has_written, visibly
from deploykit.util.errors import DeployError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

EPILOG = """\
Each command has --help with an example, and --json for machine-readable output.

\b
Errors:
  error: SENTENCE [code]
    fix: COMMAND OR ADVICE
go to standard error; docs/troubleshooting.md explains each code. With --json,
{"error": {"code", "problem", "fix"}} goes to standard output as well.

\b
Shell completion:
  bash: eval "$(_DEPLOYKIT_COMPLETE=bash_source deploykit)"   in ~/.bashrc
  zsh:  eval "$(_DEPLOYKIT_COMPLETE=zsh_source deploykit)"    in ~/.zshrc
  fish: _DEPLOYKIT_COMPLETE=fish_source deploykit | source    in ~/.config/fish/config.fish
"""


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
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


cli.params.extend(VERBOSITY_OPTIONS)


def main() -> NoReturn:
    """Run the command line and exit."""
    prepare_interrupts()
    _prepare_streams()
    with visibly():
        _run(debugging="DEPLOYKIT_DEBUG" in os.environ)


def _run(*, debugging: bool) -> NoReturn:
    if not debugging:
        warnings.simplefilter("ignore")  # hints for programmers; what matters to users is raised
    try:
        with collected_notes():
            status = cli.main(prog_name="deploykit", standalone_mode=False)
        sys.stdout.flush()
    except DeployError as error:
        fix = suggest(error, sys.argv[1:]) or error.fix
        _fail(error.problem, error.code, fix, error.exit_code)
    except click.UsageError as error:
        fix = suggest(error, sys.argv[1:]) or _help_for(error)
        _fail(error.format_message(), "usage", fix, error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        ignore_interrupts()
        print("stopped; no result was written", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except MemoryError:
        _fail(
            "There is not enough memory.",
            "out-of-memory",
            "give a smaller --batch, --side or --phi",
            BAD_INPUT,
        )
    except OSError as error:
        if debugging:
            raise
        _discard_output()
        fix = "free some space there, or name another place"
        _fail(f"The operating system reports: {error}.", "system-error", fix, BAD_INPUT)
    except Exception as error:
        if debugging:
            raise
        problem = f"deploykit failed unexpectedly: {type(error).__name__}: {error}"
        _fail(
            problem, "internal-error", "run it again with DEPLOYKIT_DEBUG=1 and report the traceback", FAILED
        )
    sys.exit(status if isinstance(status, int) else 0)


def _help_for(error: click.UsageError) -> str:
    return f"{error.ctx.command_path if error.ctx else 'deploykit'} --help"


def _fail(problem: str, code: str, fix: str, status: int) -> NoReturn:
    """Print an error, as JSON too where that is asked for and no result has been printed, and exit."""
    print(f"error: {problem} [{code}]\n  fix: {fix}", file=sys.stderr)
    if "--json" in sys.argv and not has_written(sys.stdout):
        print(json.dumps({"error": {"code": code, "problem": problem, "fix": fix}}))
    sys.exit(status)


def _prepare_streams() -> None:
    if sys.stdout is None:  # the caller closed it
        sys.stdout = io.TextIOWrapper(io.BytesIO())
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.BytesIO())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name the terminal can't show is no failure


def _discard_output() -> None:
    """Send standard output to the null device, so that the interpreter's last flush succeeds."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
