"""Decide what a bundle does on a environment: run one of its plans, or build an engine."""

from dataclasses import dataclass
from pathlib import Path

from deploykit.engine.compilers import COMPILERS
from deploykit.engine.require_buildable import require_buildable
from deploykit.engine.targets import CPU, Target, resolve_precision, resolve_target
from deploykit.runtime.bundle.archive import BundleContents, BundledPlan
from deploykit.runtime.preflight import Check, RuntimeEnvironment, check_requirements
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

CheckedPlans = tuple[tuple[BundledPlan, tuple[Check, ...]], ...]
"""The plans of a bundle, each with the requirements that were checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What a bundle does on a machine.

    Attributes:
        plans: Each plan with its checked requirements.
        chosen_plan: The plan that runs; None if an engine is built.
        build_target: The target that an engine is built for; None if a plan runs.
        cached_path: The engine if it is in the cache already.
        fallback_reason: Why the machine's GPU is not used; None if it is, or if the machine has no GPU.
        uncacheable_reason: Why the engine cannot be kept for the next process; None if it can be, or is.
        error: Why nothing can run; None if something can.
    """

    plans: CheckedPlans
    chosen_plan: BundledPlan | None
    build_target: Target | None
    fallback_reason: str | None = None
    cached_path: Path | None = None
    uncacheable_reason: str | None = None
    error: DeployError | None = None

    @property
    def runs(self) -> bool:
        return self.error is None


def resolve_plan(contents: BundleContents, environment: RuntimeEnvironment) -> Resolution:
    """Choose the plan that runs on a machine, or the target to build for.

    TensorRT plans are preferred over ONNX Runtime on a GPU. The CPU is used only if nothing serves the GPU.
    """
    plans = tuple((plan, check_requirements(plan.manifest, environment)) for plan in contents.plans)
    running = [plan for plan, checks in plans if all(check.holds for check in checks)]
    chosen = min(running, key=lambda plan: _rank(plan.manifest.target), default=None)
    if chosen is not None and not chosen.manifest.target.on_cpu:
        return Resolution(plans=plans, chosen_plan=chosen, build_target=None)
    target, drawback = _choose_target(contents, environment)
    if chosen is not None and target.on_cpu:
        return Resolution(plans=plans, chosen_plan=chosen, build_target=None, fallback_reason=drawback)
    return Resolution(plans=plans, chosen_plan=None, build_target=target, fallback_reason=drawback)


def choose_build_precision(target: Target, contents: BundleContents) -> Precision:
    """Return the precision to build for a target; FP16 becomes FP32 on a CPU.

    Raises:
        DeployError: The target cannot run what the bundle contains.
    """
    requested = contents.precision
    return resolve_precision(target, None if target.on_cpu and requested == "fp16" else requested)


def require_buildable_for(contents: BundleContents, target: Target) -> None:
    """Raise an error if no engine for the target can be built from the bundle, whatever is installed.

    Raises:
        DeployError: None can be built; the message says why.
    """
    try:
        require_buildable(target, contents.model, choose_build_precision(target, contents), contents.side)
    except DeployError as error:
        raise DeployError(
            error.problem,
            code=error.code,
            fix="recreate the bundle without --side, from the FP32 model, or with an engine for this machine",
        ) from error


def _rank(target: Target) -> int:
    return 2 if target.on_cpu else int(target.compiler == "onnxruntime")


def _choose_target(contents: BundleContents, environment: RuntimeEnvironment) -> tuple[Target, str | None]:
    """Return the target to build for, and why it is not the machine's GPU, with the fix."""
    if environment.gpu is None:
        return resolve_target(CPU), None
    try:
        target = resolve_target(None)
        choose_build_precision(target, contents)
    except DeployError as error:
        return resolve_target(CPU), str(error)
    if target.compiler in environment.runtimes:
        return target, None
    facts = COMPILERS[target.compiler]
    reason = f"{facts.title}, which builds engines for it, is not installed: {facts.install}"
    return resolve_target(CPU), reason
