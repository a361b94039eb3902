"""Every name of TensorRT's that is used exists in TensorRT 10, TensorRT 11 and TensorRT-RTX.

TensorRT's libraries come from NVIDIA's own index, its Python bindings from PyPI (`make test` fetches
two majors). They import where libraries of the right names export the nine functions they need, and
empty ones will do: classes and their members are the bindings' own.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import deploykit
from deploykit.engine.build import build_engine

ROOT = Path(__file__).parents[2]
PACKAGE = Path(deploykit.__file__).parent
BINDINGS = ROOT / ".cache" / f"tensorrt-python{sys.version_info.major}.{sys.version_info.minor}"
USERS = (
    "engine/tensorrt_compiler.py",
    "engine/timing_cache.py",
    "runtime/tensorrt/runner.py",
    "runtime/tensorrt/execution_context.py",
    "runtime/tensorrt/plan.py",
    "runtime/tensorrt/layer_profiler.py",
)

# What the bindings leave undefined (nm --dynamic --undefined-only), by library.
FUNCTIONS = {
    "nvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
    "nvonnxparser": (
        "createNvOnnxParserRefitter_INTERNAL",
        "createNvOnnxParser_INTERNAL",
        "getNvOnnxParserVersion",
    ),
}
# What our code calls objects of TensorRT's classes.
CLASSES = {
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "_config": "IBuilderConfig",
    "trt_context": "IExecutionContext",
    "_trt_context": "IExecutionContext",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "_runtime": "Runtime",
    "runtime": "Runtime",
    "layer": "ILayer",
    "runtime_config": "IRuntimeConfig",
}
# What our code calls enumerations.
ENUMERATIONS = {
    "levels": "HardwareCompatibilityLevel",
    "strategies": "DynamicShapesKernelSpecializationStrategy",
}
# Of TensorRT-RTX alone: ahead of time, for GPUs that are not here.
RTX_ALONE = {
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "ComputeCapability",
    # Its kernels for shapes, and that they be fit to capture.
    "BuilderFlag.REQUIRE_USER_ALLOCATION",
    "DynamicShapesKernelSpecializationStrategy",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    # Asked for where they are.
    "EngineInvalidityDiagnostics",
    "Runtime.engine_header_size",
    "Runtime.get_engine_validity",
}
LIST_MEMBERS = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
missing = []
for path in json.loads(sys.argv[2]):
    value = trt
    for name in path.split("."):
        value = getattr(value, name, None)
    if value is None:
        missing.append(path)
print(json.dumps({"missing": missing, "version": trt.__version__}))
"""


def used_names() -> set[str]:
    """Dotted names below the module that our code reads from it, and members of objects of its classes."""
    return set().union(*(_used_in(ast.parse((PACKAGE / user).read_text())) for user in USERS))


def _used_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        path = _dotted(node)
        owner, _, rest = path.removeprefix("self.").partition(".")
        if owner == "trt":
            yield rest
        elif owner in ENUMERATIONS:
            yield f"{ENUMERATIONS[owner]}.{rest}"
        elif owner in CLASSES and rest:
            yield f"{CLASSES[owner]}.{rest.partition('.')[0]}"


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


@pytest.fixture(scope="module", params=["10", "11"])
def stubbed(request, tmp_path_factory) -> dict[str, str]:
    """An environment in which one major's bindings import."""
    source = BINDINGS / request.param
    if not (source / "tensorrt_bindings").is_dir():
        pytest.skip(f"needs TensorRT's bindings in {source}, which `make test` fetches")
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, to make libraries of TensorRT's names")
    folder = tmp_path_factory.mktemp("bindings")
    shutil.copytree(source / "tensorrt_bindings", folder / "tensorrt_bindings")
    for library, functions in FUNCTIONS.items():
        name = f"lib{library}.so.{request.param}"
        code = "".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions)
        target = folder / "tensorrt_bindings" / name
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(target), f"-Wl,-soname,{name}"],
            input=code.encode(),
            check=True,
        )
    (folder / "tensorrt.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )
    return {"PYTHONPATH": f"{folder}:{PACKAGE.parent}", "PATH": "/usr/bin:/bin", "MAJOR": request.param}


def missing_of(module: str, names: set[str], environment: dict[str, str] | None = None) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", LIST_MEMBERS, module, json.dumps(sorted(names))],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_the_scan_finds_the_tensorrt_names_that_deploykit_uses():
    names = used_names()
    assert {"Builder", "BuilderFlag.STRIP_PLAN", "HardwareCompatibilityLevel.AMPERE_PLUS"} <= names
    assert {
        "IBuilderConfig.set_timing_cache",
        "ITimingCache.serialize",
        "Builder.build_serialized_network",
    } <= names
    assert {"IExecutionContext.execute_async_v3", "Runtime.deserialize_cuda_engine"} <= names
    profiling = {"profiler", "enqueue_emits_profile", "report_to_profiler"}
    assert {"IProfiler", *(f"IExecutionContext.{name}" for name in profiling)} <= names
    assert names >= RTX_ALONE


def test_both_majors_of_tensorrt_have_every_name_that_is_used(stubbed):
    found = missing_of("tensorrt", used_names() - RTX_ALONE, stubbed)
    assert found["version"].startswith(stubbed["MAJOR"] + ".")
    assert found["missing"] == []


def test_tensorrt_rtx_has_every_name_that_is_used():
    assert missing_of("tensorrt_rtx", used_names())["missing"] == []


def test_a_removed_name_would_be_detected(stubbed):
    gone = {"10": "IExecutionContext.execute_async", "11": "BuilderFlag.INT8"}[stubbed["MAJOR"]]
    assert missing_of("tensorrt", {gone}, stubbed)["missing"] == [gone]


COMPILE = """
from onnx import ModelProto
from deploykit.engine.shapes import BatchRange
from deploykit.engine.targets import Target
from deploykit.engine.tensorrt_compiler import compile_plan
from deploykit.util.errors import DeployError
t4 = Target(name="Tesla T4", compiler="tensorrt", sm=75)
try:
    compile_plan(ModelProto(), target=t4, batches=[BatchRange()])
except DeployError as error:
    print(error)
"""


LOAD = """
import sys
from pathlib import Path
from deploykit.engine.manifest import read_engine_manifest
from deploykit.util.errors import DeployError
from deploykit.runtime.tensorrt.plan import deserialize_plan
from dataclasses import replace
path = Path(sys.argv[1])
manifest = read_engine_manifest(path)
try:
    deserialize_plan(path, replace(manifest, target=replace(manifest.target, compiler="tensorrt")))
except DeployError as error:
    print(error)
"""


def test_a_plan_that_tensorrt_can_not_load_is_refused(stubbed, random_b0, tmp_path):
    engine = build_engine(onnx=random_b0.path, gpu="T4", output=tmp_path / "e.engine").path
    done = subprocess.run(
        [sys.executable, "-c", LOAD, engine], env=stubbed, capture_output=True, text=True, check=True
    )
    assert re.match(rf"TensorRT {stubbed['MAJOR']}\.\S+ cannot load .*e\.engine, ", done.stdout)


def test_tensorrt_without_a_driver_is_refused(stubbed):
    """Its builder is nothing then, as the stub's is."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=stubbed, capture_output=True, text=True, check=True
    )
    assert re.match(rf"TensorRT {stubbed['MAJOR']}\.\S+ failed to start: .* GPU or driver", done.stdout)
    assert "nvidia-smi" in done.stdout
