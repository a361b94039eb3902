"""Every family that --family names."""

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


def find_family(name: str) -> Family:
    """The family of that name, or the FAMILY that a Python file defines.

    Raises:
        DeployError: there is none, or the file can't be run.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    if name not in FAMILIES:
        raise DeployError(
            f"There is no family {name!r}.",
            code="unknown-family",
            fix=f"take one of {', '.join(FAMILIES)}, or a Python file that defines FAMILY",
        )
    return FAMILIES[name]


def is_builtin(family: Family) -> bool:
    """Whether its name alone says what it is: a file of one's own may be another network tomorrow."""
    return FAMILIES.get(family.name) is family


def _from_file(path: Path) -> Family:
    fix = "docs/families.md shows what such a file has"
    if not path.is_file():
        raise DeployError(f"There is no file {path}.", code="file-not-found", fix=fix)
    try:
        family = runpy.run_path(str(path)).get("FAMILY")
        if isinstance(family, Family):
            family.network(family.base)
    except DeployError as error:
        raise DeployError(f"{path}: {error.problem}", code="family-file-invalid", fix=error.fix) from error
    except Exception as error:
        raise DeployError(
            f"{path} fails: {type(error).__name__}: {error}.", code="family-file-invalid", fix=fix
        ) from error
    if not isinstance(family, Family):
        raise DeployError(f"{path} defines no FAMILY.", code="family-file-invalid", fix=fix)
    if not re.fullmatch(FAMILY_NAME, family.name):
        raise DeployError(
            f"{path} calls its family {family.name!r}.",
            code="family-file-invalid",
            fix="take lower-case letters, digits, _ and -",
        )
    return family
