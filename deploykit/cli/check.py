import sys
from pathlib import Path

import click

from deploykit.cli.output import json_option, print_json, print_table
from deploykit.runtime.preflight import preflight

CANNOT_RUN = 3


@click.command(name="check")
@click.argument("engine", type=click.Path(path_type=Path))
@json_option
def command(engine: Path, as_json: bool) -> None:
    """Say whether this machine can run an engine, and if not why and what to do; exits with 3 then.

    \b
    Example:
      deploykit check engines/efficientnet-phi3/model.int8.sm75.engine
    """
    found = preflight(engine)
    if as_json:
        print_json({"path": engine, "runs": found.runs, "checks": found.checks})
    else:
        print_table(
            ("", "wants", "here", ""),
            [(each.name, each.wanted, each.found, "ok" if each.holds else "no") for each in found.checks],
        )
        print(f"{engine}: {'runs here' if found.runs else 'cannot run here'}")
        for each in found.checks:
            if each.fix is not None:
                print(f"  {each.name}: {each.fix}")
    sys.exit(0 if found.runs else CANNOT_RUN)
