import click

from deploykit.cli.output import json_option, print_json, print_table
from deploykit.networks.families.registry import FAMILIES


@click.command(name="families")
@json_option
def command(as_json: bool) -> None:
    """List the network families with their published members.

    \b
    Example:
      deploykit families
    """
    if as_json:
        print_json(
            [
                {
                    "family": family.name,
                    "title": family.title,
                    "members": dict(family.members),
                    "source": family.source,
                }
                for family in FAMILIES.values()
            ]
        )
        return
    print_table(
        ("family", "network", "members", "baseline", "source"),
        [
            (
                family.name,
                family.title,
                ", ".join(family.members),
                f"{family.network(family.base).macs / 1e9:.2f} G MACs at {family.base.side_px} px",
                family.source,
            )
            for family in FAMILIES.values()
        ],
    )
