"""What a bundle would do on a machine: which of its plans runs there, or what is built."""

from dataclasses import dataclass
from pathlib import Path

from deploykit.engine.compile import require_buildable
from deploykit.engine.compilers import COMPILERS
from deploykit.engine.targets import CPU, Target, resolve_precision, resolve_target
from deploykit.runtime.bundle.archive import BundleContents, BundledPlan
from deploykit.runtime.preflight import Check, RuntimeEnvironment, check_requirements
from deploykit.util.errors import DeployError
from deploykit.util.types import Precision

_Checked = tuple[tuple[BundledPlan, tuple[Check, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What a bundle would do on a machine.

    Attributes:
        plans: each plan, and what it needs.
        chosen_plan: the one that is taken; None where one is built.
        build_target: what would be built; None where a plan runs.
        cached_path: where that plan, or what would be built, is already; None where it is not.
        fallback_reason: why there is nothing for the GPU of the machine; None where there is, or it has none.
        uncacheable_reason: why the engine can't be kept for the next time; None where it can, or is.
        error: why nothing runs; None where it does.
    """

    plans: _Checked
    chosen_plan: BundledPlan | None
    build_target: Target | None
    fallback_reason: str | None = None
    cached_path: Path | None = None
    uncacheable_reason: str | None = None
    error: DeployError | None = None

    @property
    def runs(self) -> bool:
        return self.error is None


def resolve_plan(contents: BundleContents, machine: RuntimeEnvironment) -> Resolution:
    """What is taken or built, where nothing is in the way of that.

    TensorRT's plans come before ONNX Runtime on a GPU; on the CPU all runs, but only where no GPU is served.
    """
    plans = tuple((plan, check_requirements(plan.manifest, machine)) for plan in contents.plans)
    running = [plan for plan, checks in plans if all(check.holds for check in checks)]
    chosen = min(running, key=lambda plan: _rank(plan.manifest.target), default=None)
    if chosen is not None and not chosen.manifest.target.on_cpu:
        return Resolution(plans=plans, chosen_plan=chosen, build_target=None)
    target, drawback = _target(contents, machine)
    if chosen is not None and target.on_cpu:
        return Resolution(plans=plans, chosen_plan=chosen, build_target=None, fallback_reason=drawback)
    return Resolution(plans=plans, chosen_plan=None, build_target=target, fallback_reason=drawback)


def build_precision(target: Target, contents: BundleContents) -> Precision:
    """What to build: FP16 is FP32 on a CPU.

    Raises:
        DeployError: what is in the bundle can't be had there.
    """
    asked = contents.precision
    return resolve_precision(target, None if target.on_cpu and asked == "fp16" else asked)


def require_buildable_for(contents: BundleContents, target: Target) -> None:
    """Fails where no engine of a bundle's model and sizes can be built, whatever is installed.

    Raises:
        DeployError: none can; the problem says why.
    """
    try:
        require_buildable(target, contents.model, build_precision(target, contents), contents.side)
    except DeployError as error:
        raise DeployError(
            error.problem,
            code=error.code,
            fix="bundle again without --side, from the FP32 model, or with an engine for here",
        ) from error


def _rank(target: Target) -> int:
    return 2 if target.on_cpu else int(target.compiler == "onnxruntime")


def _target(contents: BundleContents, machine: RuntimeEnvironment) -> tuple[Target, str | None]:
    """What to build on a machine, and what keeps it from being for its GPU, and the way out."""
    if machine.gpu is None:
        return resolve_target(CPU), None
    try:
        target = resolve_target(None)
        build_precision(target, contents)
    except DeployError as error:
        return resolve_target(CPU), str(error)
    if target.compiler in machine.runtimes:
        return target, None
    facts = COMPILERS[target.compiler]
    return resolve_target(CPU), f"{facts.title} is missing to build an engine: {facts.install}"
