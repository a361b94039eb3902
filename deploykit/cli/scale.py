from typing import Any

import click

from deploykit.cli.network_options import NetworkChoice, network_options
from deploykit.cli.output import json_option, print_json, print_table
from deploykit.networks.families.registry import find_family
from deploykit.networks.member import Member, choose_member


@click.command(name="scale")
@network_options
@json_option
def command(network: NetworkChoice, as_json: bool) -> None:
    """Show a family's published networks, or one network, with scale, parameters and MACs.

    MACs are multiply-accumulates.

    \b
    Example:
      deploykit scale --phi 2.5
      deploykit scale --family efficientnetv2
    """
    if network.names_only_family:
        names = find_family(network.family).members
        shown = [(name, choose_member(network.family, named=name)) for name in names]
    else:
        shown = [("", network.resolve())]
    rows = [_fields(name, member) for name, member in shown]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("member", "phi", "depth", "width", "side", "parameters", "MACs", rows[0]["metric"]),
        [
            (
                row["member"],
                "" if row["phi"] is None else f"{row['phi']:g}",
                f"{row['depth']:.3g}",
                f"{row['width']:.3g}",
                f"{row['side_px']} px",
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['macs'] / 1e9:.3f} G",
                _percent(row["accuracy"]),
            )
            for row in rows
        ],
    )


def _fields(name: str, member: Member) -> dict[str, Any]:
    built = member.network()
    published = member.family.accuracy.get(member.scale)
    return {
        "member": name,
        "phi": member.phi,
        "depth": member.scale.depth,
        "width": member.scale.width,
        "side_px": member.scale.side_px,
        "parameters": built.parameter_count,
        "macs": built.macs,
        "metric": member.family.metric,
        "accuracy": None if published is None else published.value,
    }


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{100 * accuracy:.1f} %"
