import click

from deploykit.architecture.efficientnet import efficientnet
from deploykit.cli.output import json_option, print_json, print_table
from deploykit.scaling import PUBLISHED, RULES, Rule, phi_label, scale_for


@click.command(name="scale")
@click.option("--phi", type=float, help="One member; default: B0 to B7.")
@click.option(
    "--rule",
    type=click.Choice(RULES),
    default="published",
    show_default=True,
    help="published: B0..B7 and interpolation between; formula: alpha 1.2, beta 1.1, gamma 1.15.",
)
@json_option
def command(phi: float | None, rule: Rule, as_json: bool) -> None:
    """Print the family: phi, depth, width, side, parameters and multiply-accumulates (MACs).

    \b
    Example:
      deploykit scale --phi 2.5
    """
    phis = [float(each) for each in range(len(PUBLISHED))] if phi is None else [phi]
    members = []
    for each in phis:
        scale = scale_for(each, rule=rule)
        network = efficientnet(scale)
        members.append(
            {
                "phi": each,
                "depth": scale.depth,
                "width": scale.width,
                "side_px": scale.side_px,
                "parameters": network.parameter_count,
                "macs": network.macs,
            }
        )
    if as_json:
        print_json(members)
        return
    print_table(
        ("phi", "depth", "width", "side", "parameters", "MACs"),
        [
            (
                phi_label(member["phi"]),
                f"{member['depth']:.3g}",
                f"{member['width']:.3g}",
                f"{member['side_px']} px",
                f"{member['parameters'] / 1e6:.2f} M",
                f"{member['macs'] / 1e9:.3f} G",
            )
            for member in members
        ],
    )
