"""All families, by the name that --family takes.

To add one, write its file in this folder and list it here.
"""

import re
import runpy
from collections.abc import Mapping
from pathlib import Path

from deploykit.networks.families import (
    efficientdet,
    efficientnet,
    efficientnet_lite,
    efficientnet_v2,
    mobilenet_v2,
    regnet,
    resnet,
)
from deploykit.networks.families.family import Family
from deploykit.util.errors import DeployError
from deploykit.util.types import FAMILY_NAME

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        efficientnet.FAMILY,
        efficientnet_lite.FAMILY,
        *efficientnet_v2.FAMILIES,
        *mobilenet_v2.FAMILIES,
        *resnet.FAMILIES,
        *regnet.FAMILIES,
        efficientdet.FAMILY,
    )
}
DEFAULT_FAMILY = efficientnet.FAMILY.name


def find_family(name: str | Path) -> Family:
    """Return a family by its name, or the FAMILY that a Python file defines.

    Args:
        name: A family's name, or the path of a .py file.

    Raises:
        DeployError: There is no such family, or the file cannot be used.
    """
    name = str(name)
    if name.endswith(".py"):
        return _load_family_file(Path(name))
    if name not in FAMILIES:
        raise DeployError(
            f"{name!r} is not a family.",
            code="unknown-family",
            fix=f"use one of {', '.join(FAMILIES)}, or a Python file that defines FAMILY",
        )
    return FAMILIES[name]


def is_builtin(family: Family) -> bool:
    """Whether deploykit defines it, so that its name identifies it; a family file may change at any time."""
    return FAMILIES.get(family.name) is family


def _load_family_file(path: Path) -> Family:
    fix = "write the file as docs/families.md shows"
    if not path.is_file():
        raise DeployError(f"The family file {path} does not exist.", code="file-not-found", fix=fix)
    try:
        family = runpy.run_path(str(path)).get("FAMILY")
        if isinstance(family, Family):
            family.network(family.base)
    except DeployError as error:
        raise DeployError(f"{path}: {error.problem}", code="family-file-invalid", fix=error.fix) from error
    except Exception as error:
        raise DeployError(
            f"Running {path} failed: {type(error).__name__}: {error}.", code="family-file-invalid", fix=fix
        ) from error
    if not isinstance(family, Family):
        raise DeployError(
            f"{path} does not define FAMILY, a deploykit.networks.families.family.Family.",
            code="family-file-invalid",
            fix=fix,
        )
    if not re.fullmatch(FAMILY_NAME, family.name):
        raise DeployError(
            f"{path} has an invalid family name: {family.name!r}.",
            code="family-file-invalid",
            fix="use lower-case letters, digits, _ and -",
        )
    return family
