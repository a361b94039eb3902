"""How to install deploykit and its extras: the one place that every hint comes from."""

DISTRIBUTION = "deploykit-trt"
"""Name of the distribution. `deploykit` on PyPI is another project; package and command are `deploykit`."""

PUBLISHED = False
"""Whether DISTRIBUTION is on PyPI; until then hints name a checkout of the project."""


def install_hint(*extras: str, python: str | None = None) -> str:
    """Return the command that installs deploykit with these extras.

    Args:
        extras: Names from pyproject.toml's optional dependencies, for example `cpu` and `serve`.
        python: The interpreter to install for; default the one on PATH.
    """
    pip = f"{python} -m pip" if python else "pip"
    chosen = f"[{','.join(extras)}]" if extras else ""
    if PUBLISHED:
        return f"{pip} install '{DISTRIBUTION}{chosen}'"
    return f"{pip} install '.{chosen}' in a checkout of deploykit"
