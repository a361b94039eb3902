import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploykit.cli.output import json_option, print_json, print_table
from deploykit.engine.manifest import is_bundle
from deploykit.runtime.preflight import Check, preflight
from deploykit.util.errors import DeployError

if TYPE_CHECKING:
    from deploykit.runtime.bundle.bundle import Resolution

CANNOT_RUN = 3


@click.command(name="check")
@click.argument("engine", type=click.Path(path_type=Path))
@json_option
def command(engine: Path, as_json: bool) -> None:
    """Check whether this machine can run an engine or bundle, and if not, say why.

    The exit status is 3 if it cannot.

    \b
    Example:
      deploykit check engines/efficientnet-phi3/model.int8.sm75.engine
    """
    if is_bundle(engine):
        _check_bundle(engine, as_json=as_json)
        return
    found = preflight(engine)
    if as_json:
        print_json({"path": engine, "runs": found.runs, "checks": found.checks})
    else:
        _print_checks(found.checks)
        print(f"{engine}: {'runs here' if found.runs else 'cannot run here'}")
        for each in found.checks:
            if each.fix is not None:
                print(f"  {each.name}: {each.fix}")
    sys.exit(0 if found.runs else CANNOT_RUN)


def _check_bundle(path: Path, *, as_json: bool) -> None:
    """Check a bundle, which also runs where an engine can be built from it."""
    from deploykit.runtime.bundle.bundle import Bundle

    found = Bundle(path).resolve()
    if as_json:
        _print_bundle_json(path, found)
    else:
        for plan, checks in found.plans:
            print(f"{plan.manifest.precision.upper()} for {plan.manifest.target.title}:")
            _print_checks(checks)
        for line in _conclusion(path, found):
            print(line)
    sys.exit(0 if found.runs else CANNOT_RUN)


def _print_bundle_json(path: Path, found: "Resolution") -> None:
    print_json(
        {
            "path": path,
            "runs": found.runs,
            "plans": [{"manifest": plan.manifest, "checks": checks} for plan, checks in found.plans],
            "would_build": found.build_target.title
            if found.build_target is not None and found.runs
            else None,
            "kept": found.cached_path is not None,
            "drawback": found.fallback_reason,
            "unkept": found.uncacheable_reason,
            "refusal": found.error and _error(found.error),
        }
    )


def _error(error: DeployError) -> dict[str, str]:
    return {"code": error.code, "problem": error.problem, "fix": error.fix}


def _conclusion(path: Path, found: "Resolution") -> Iterator[str]:
    from deploykit.runtime.bundle.engine_cache import TEMPORARY_ENGINE_NOTE

    if found.error is not None:
        yield f"{path}: cannot run here"
        yield f"  {found.error.problem}"
        yield f"  {found.error.fix}"
    elif found.chosen_plan is not None:
        yield f"{path}: runs with its plan for {found.chosen_plan.manifest.target.title}"
    elif found.build_target is not None:
        done = "was built before and is kept" if found.cached_path else "will be built when it is loaded"
        yield f"{path}: none of its plans runs here; one for {found.build_target.title} {done}"
    if found.fallback_reason is not None:
        yield f"  no engine for the GPU of this machine: {found.fallback_reason}"
    if found.uncacheable_reason is not None and found.runs:
        yield f"  {found.uncacheable_reason} {TEMPORARY_ENGINE_NOTE}"


def _print_checks(checks: Sequence[Check]) -> None:
    print_table(
        ("", "required", "here", ""),
        [(each.name, each.wanted, each.found, "ok" if each.holds else "no") for each in checks],
    )
