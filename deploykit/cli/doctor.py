import click

from deploykit.cli.output import json_option, print_json, print_table
from deploykit.cli.progress import show_progress
from deploykit.runtime.doctor import diagnose


@click.command(name="doctor")
@json_option
def command(as_json: bool) -> None:
    """Show what is installed, what this machine can build and run, and what is missing.

    \b
    Example:
      deploykit doctor
    """
    with show_progress("examining this machine"):
        found = diagnose()
    if as_json:
        print_json(found)
        return
    gpu = f"{found.gpu.name} (SM{found.gpu.sm})" if found.gpu else "none"
    print(f"Python {found.python} on {found.platform}; NVIDIA GPU: {gpu}")
    print_table(
        ("component", "version", "for"),
        [(each.name, each.version or "missing", each.purpose) for each in found.components],
    )
    print(f"builds for: {'; '.join(found.builds_for) or 'nothing yet'}")
    print(f"runs: {'; '.join(found.runs) or 'nothing yet'}")
    for sentence in found.advice:
        print(f"- {sentence}")
