"""Real builds by TensorRT-RTX, which needs no GPU for them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache

import pytest
from handmade_graphs import graph_of, ranges_of
from onnx import ModelProto, helper
from refusals import refuses

from deploykit.engine.audit.audit import Audit
from deploykit.engine.audit.layer_log import audit_builder_log
from deploykit.engine.compiled_engine import CompiledEngine
from deploykit.engine.compilers import COMPILERS, BuildOptions
from deploykit.engine.prepare_graph import apply_precision
from deploykit.engine.shapes import BatchRange, SideRange, parse_profiles
from deploykit.engine.targets import Target, resolve_target
from deploykit.engine.tensorrt_compiler import compile_plan
from deploykit.networks.export import prepare_export
from deploykit.networks.onnx_writer.writer import build_onnx_model
from deploykit.quantize.float_fallback import FloatFallback
from deploykit.quantize.placement import Policy, place_int8
from deploykit.quantize.plan import Int8Plan
from deploykit.quantize.qdq import activation_steps

SMS = (75, 80, 86, 89, 120)
BATCH = BatchRange(min=1, opt=1, max=8)

# Table 1 of arXiv:1905.11946 stretched by the depths 1, 1.4 and 3.1 of B0, B3 and B7, rounded up.
BLOCKS = {0: (1, 2, 2, 3, 3, 4, 1), 3: (2, 3, 3, 5, 5, 6, 2), 7: (4, 7, 7, 10, 10, 13, 4)}

CENTRED, SYMMETRIC = (-0.28, 4.0), (-4.0, 4.0)


def planned_products(phi: int, policy: Policy = "pointwise") -> int:
    """A projection for each block, an expansion for all but those of the first stage, head and classifier.

    `bandwidth` adds each block's depthwise convolution; `all-conv` squeeze-excite's two and the stem, too.
    """
    first, *others = BLOCKS[phi]
    pointwise = first + 2 * sum(others) + 1 + 1
    blocks = first + sum(others)
    return pointwise + {"pointwise": 0, "dense": 0, "bandwidth": blocks, "all-conv": 3 * blocks + 1}[policy]


@pytest.fixture(scope="module")
def graph_for() -> Iterator[Callable[..., ModelProto]]:
    """Graphs at the members' own resolution, made once; weights are no matter to a compiler."""

    @cache
    def model_and_info(phi: int):
        network, weights, info = prepare_export(phi)
        return build_onnx_model(network, weights, info), info

    @cache
    def graph(phi: int, precision: str, sm: int | None, policy: Policy, bounds: tuple[float, float]):
        model, info = model_and_info(phi)
        plan = plan_of(model, policy, bounds) if precision == "int8" else None
        target = Target(name="test", compiler="tensorrt-rtx", sm=sm)
        return apply_precision(model, info, precision, target, onnx_sha256="", plan=plan)

    # Floating point is the same for every GPU, and INT8 for all after Turing.
    yield lambda phi, precision, sm, policy, bounds: graph(
        phi, precision, sm if precision == "int8" and sm == 75 else None, policy, bounds
    )
    graph.cache_clear()
    model_and_info.cache_clear()


def plan_of(model, policy: Policy, bounds: tuple[float, float]) -> Int8Plan:
    """Every activation has the same range."""
    placement = place_int8(model, policy)
    ranges = ranges_of(dict.fromkeys(placement.tensors, bounds))
    centred = [name for name, step in activation_steps(placement, ranges).items() if step.centre]
    assert bool(centred) == (bounds == CENTRED)
    return Int8Plan(placement=placement, ranges=ranges, float_fallback=FloatFallback(), gate=None)


@pytest.fixture
def build(graph_for) -> Callable[..., CompiledEngine]:
    def built(
        phi: int,
        precision: str,
        target: Target,
        *,
        policy: Policy = "pointwise",
        bounds: tuple[float, float] = CENTRED,
        **options,
    ) -> CompiledEngine:
        graph = graph_for(phi, precision, target.sm, policy, bounds)
        return compile_plan(graph, target=target, **{"batches": [BATCH], **options})

    return built


@pytest.mark.parametrize("sm", SMS)
@pytest.mark.parametrize("phi", BLOCKS)
def test_int8_is_compiled_for_every_node_that_was_planned(build, phi, sm):
    plan = build(phi, "int8", Target(name="test", compiler="tensorrt-rtx", sm=sm))
    assert plan.audit.product_count("int8") == planned_products(phi)
    assert plan.audit.product_count("fp32") == 0
    assert plan.audit.product_count("fp16") > 0
    plan.audit.require_precision("int8", planned_int8=planned_products(phi))
    assert len(plan.data) > 1e6


@pytest.mark.parametrize("sm", [75, 89])
def test_no_kernel_allocates_memory_while_it_runs(build, sm):
    """No CUDA graph could hold it."""
    target = Target(name="test", compiler="tensorrt-rtx", sm=sm)
    plan = build(7, "fp16", target, batches=[BatchRange()])
    assert not {"allocate", "deallocate"} & {layer.kind for layer in plan.audit.layers}


def test_kernels_for_large_batches_would_allocate_memory_if_allowed(build, monkeypatch):
    facts = replace(COMPILERS["tensorrt-rtx"], specializes_shapes=False)
    monkeypatch.setitem(COMPILERS, "tensorrt-rtx", facts)
    target = Target(name="test", compiler="tensorrt-rtx", sm=75)
    plan = build(7, "fp16", target, batches=[BatchRange()])
    assert [layer.kind for layer in plan.audit.layers].count("allocate") == 9


@pytest.mark.parametrize("gpu", ["T4", "A100"])
def test_centring_adds_no_kernel(build, gpu):
    """Documents TensorRT-RTX 1.7: the subtraction joins the kernel that quantizes, which is there anyway."""
    centred, symmetric = (
        build(0, "int8", resolve_target(gpu), bounds=bounds).audit for bounds in (CENTRED, SYMMETRIC)
    )
    assert len(centred.layers) == len(symmetric.layers)
    assert centred.product_count("int8") == planned_products(0)


@pytest.mark.parametrize("policy", ["bandwidth", "all-conv"])
@pytest.mark.parametrize("sm", [80, None], ids=["SM80", "portable"])
def test_the_other_policies_are_compiled_as_planned_after_turing(build, policy, sm):
    target = Target(name="test" if sm else "portable", compiler="tensorrt-rtx", sm=sm)
    audit = build(0, "int8", target, policy=policy).audit
    assert audit.product_count("int8") == planned_products(0, policy)
    assert audit.product_count("fp32") == 0


@pytest.mark.parametrize("sm", SMS)
@pytest.mark.parametrize("phi", BLOCKS)
def test_fp16_is_compiled_without_any_int8(build, phi, sm):
    plan = build(phi, "fp16", Target(name="test", compiler="tensorrt-rtx", sm=sm))
    assert plan.audit.product_count("int8") == plan.audit.product_count("fp32") == 0
    plan.audit.require_precision("fp16")


def test_the_portable_engine_contains_int8(build):
    plan = build(0, "int8", Target(name="portable", compiler="tensorrt-rtx"))
    assert plan.audit.product_count("int8") >= planned_products(0)
    assert plan.audit.product_count("fp32") == 0


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("gpu", ["T4", "RTX 4090"])
def test_several_profiles_and_sides_are_compiled_with_as_much_int8(build, precision, gpu):
    options = {"batches": parse_profiles("1;8"), "side": SideRange(min=160, opt=224, max=288)}
    plan = build(0, precision, resolve_target(gpu), **options)
    planned = planned_products(0) if precision == "int8" else 1
    plan.audit.require_precision(precision, planned_int8=planned)
    assert len(plan.audit.profiles) == 2
    for profile in plan.audit.profiles:
        assert profile.missing_products == 0
        assert sum(layer.products for layer in profile.layers) == 82


@pytest.mark.parametrize("first", [True, False])
def test_a_profile_in_another_precision_is_detected(build, monkeypatch, first):
    """Of the real log, with the types of one profile's layers altered."""
    logs = []

    def keep(lines: Iterable[str], model: ModelProto) -> Audit:
        logs.append((list(lines), model))
        return audit_builder_log(*logs[-1])

    monkeypatch.setattr("deploykit.engine.tensorrt_compiler.audit_builder_log", keep)
    build(0, "fp16", resolve_target("RTX 4090"), batches=parse_profiles("1;8"))
    ((lines, model),) = logs
    altered = [
        line.replace("Datatype: Half", "Datatype: Float") if ("_myl0_" in line) == first else line
        for line in lines
    ]
    with refuses("engine-precision-mismatch") as caught:
        audit_builder_log(altered, model).require_precision("fp16")
    assert "82 FP16" in caught.value.problem
    assert "82 FP32" in caught.value.problem


def test_a_plan_records_its_compiler_version_and_build_time(build):
    import tensorrt_rtx

    phases = []
    start = time.perf_counter()
    plan = build(0, "fp16", resolve_target("T4"), progress=lambda phase, *_: phases.append(phase))
    assert plan.compiler_version == tensorrt_rtx.__version__
    assert 0 < plan.build_seconds < time.perf_counter() - start
    assert len(phases) >= 3
    assert all(isinstance(phase, str) and phase for phase in phases)


def test_fp32_is_built_for_a_gpu_that_supports_it(build):
    plan = build(0, "fp32", resolve_target("RTX 4090"))
    plan.audit.require_precision("fp32")


def test_fp32_for_turing_is_refused_in_favour_of_fp16(build):
    with refuses("precision-unsupported") as caught:
        build(0, "fp32", resolve_target("T4"))
    assert "FP16" in caught.value.fix


def test_a_failed_build_does_not_pass_on_its_compute_capability(build):
    """Else TensorRT-RTX 1.7 chooses SM75's kernels for whatever is built next."""
    before = build(0, "fp16", resolve_target("A100")).audit
    with refuses("precision-unsupported"):
        build(0, "fp32", resolve_target("T4"))
    assert build(0, "fp16", resolve_target("A100")).audit == before


def test_a_workspace_that_is_too_small_is_refused(build):
    with refuses("compiler-out-of-memory") as caught:
        build(0, "fp16", resolve_target("A100"), options=BuildOptions(workspace_mb=1))
    assert "1 MiB" in caught.value.problem
    assert "--workspace" in caught.value.fix


def test_optimization_level_and_workspace_are_accepted(build):
    options = BuildOptions(optimization_level=0, workspace_mb=1024)
    plan = build(0, "fp16", resolve_target("A100"), options=options)
    plan.audit.require_precision("fp16")
    assert plan.timing_cache_sha256 is None  # TensorRT-RTX has no use for one


def unknown_operator() -> ModelProto:
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], name="y")
    return graph_of([node], {}, takes={"x": (3, 8, 8)}, gives={"y": None})


def test_an_operator_that_tensorrt_does_not_support_is_refused():
    with refuses("compiler-parse-failed"):
        compile_plan(unknown_operator(), target=resolve_target("T4"), batches=[BATCH])


BUILD_WITH_A_BUILDER_LEFT_BEHIND = """
import gc
import tensorrt_rtx as trt
from onnx import ModelProto, helper
from deploykit.engine import tensorrt_compiler as tensorrt
from deploykit.engine.shapes import BatchRange
from deploykit.engine.targets import resolve_target
from deploykit.util.errors import DeployError

def leave_a_builder_behind():
    cycle = [trt.Builder(trt.Logger())]
    cycle.append(cycle)

def collecting(trt):
    class Collecting(type(made(trt))):
        def log(self, severity, message):
            gc.collect()  # as may happen in any Python that TensorRT calls
            super().log(severity, message)
    return Collecting()

unknown = ModelProto(graph=helper.make_graph([helper.make_node("NoSuchOperator", [], ["y"])], "g", [], []))
gc.disable()
leave_a_builder_behind()
made, tensorrt._logger = tensorrt._logger, collecting
try:
    tensorrt.compile_plan(unknown, target=resolve_target("T4"), batches=[BatchRange()])
except DeployError as error:
    print(error.code)
"""


def test_a_build_after_an_interrupted_one_does_not_deadlock():
    """TensorRT-RTX 1.7 holds a lock while it logs, and takes it again to free a builder."""
    command = [sys.executable, "-c", BUILD_WITH_A_BUILDER_LEFT_BEHIND]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "compiler-parse-failed" in done.stdout


@pytest.fixture
def interrupted_build(build) -> Iterator[list[str]]:
    """Presses Ctrl-C as the first phase begins; gives the phases that had begun when the build gave up."""
    phases: list[str] = []

    def interrupt(phase: str, done: float = 0, total: float | None = None) -> None:
        phases.append(phase)
        if len(phases) == 1:
            time.sleep(0.2)  # this is the builder's thread: the main one comes to wait for it
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)  # the main thread looks up every 0.1 s

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist's workers ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            build(3, "fp16", resolve_target("T4"), progress=interrupt)
        yield phases
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_interrupts_a_build(build, interrupted_build):
    time.sleep(0.5)  # a build that goes on would begin further phases
    stopped_after = len(interrupted_build)
    all_phases: list[str] = []
    build(3, "fp16", resolve_target("T4"), progress=lambda phase, *_: all_phases.append(phase))
    assert stopped_after < len(all_phases) / 2


def test_an_interrupted_build_has_ended_when_the_interrupt_is_raised(interrupted_build):
    """Python up to 3.12 takes a thread for ended when KeyboardInterrupt comes during its join."""
    before = len(interrupted_build)
    time.sleep(0.5)
    assert len(interrupted_build) == before
