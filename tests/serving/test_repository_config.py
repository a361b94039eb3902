"""Triton's configurations, read back by Triton's schema."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refuses
from served import colours

from deploykit.engine.manifest import EngineManifest, read_engine_manifest, write_engine
from deploykit.engine.shapes import BatchRange, SideRange, parse_profiles
from deploykit.engine.targets import Target
from deploykit.serving.repository.batching import choose_batching
from deploykit.serving.repository.config import config_schema, read_config
from deploykit.serving.repository.options import ModelOptions
from deploykit.serving.repository.write import write_repository
from deploykit.util.errors import DeployError

T4 = Target(name="T4", compiler="tensorrt", sm=75)
A100 = Target(name="A100", compiler="tensorrt", sm=80)
RTX_T4 = Target(name="T4", compiler="tensorrt-rtx", sm=75)
CPU = Target(name="CPU", compiler="onnxruntime")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> EngineManifest:
    return read_engine_manifest(colours(tmp_path_factory.mktemp("small")))


@pytest.fixture
def engine(manifest, tmp_path):
    """Write an engine file with the manifest that a test needs."""

    def write(target: Target, **changes) -> Path:
        path = tmp_path / f"model.{target.label}.engine"
        plan = target.title.encode()
        digest = hashlib.sha256(plan).hexdigest()
        write_engine(path, plan, replace(manifest, target=target, engine_sha256=digest, **changes))
        return path

    return write


def written(tmp_path: Path, *engines: Path, **options):
    """Write a model; return its folder, and its configuration as Triton reads it."""
    write_repository(tmp_path / "models", engines, ModelOptions(**{"name": "flowers", **options}))
    folder = tmp_path / "models" / "flowers"
    return folder, read_config(folder / "config.pbtxt")


def test_a_tensorrt_engine_uses_the_tensorrt_backend(engine, tmp_path):
    profiles = parse_profiles("1,1,4;1,8,16")
    folder, config = written(tmp_path, engine(T4, batches=profiles))
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    (group,) = config.instance_group
    assert group.kind == type(group).KIND_GPU
    assert list(group.profile) == ["0", "1"]
    assert config.default_model_filename == "model.plan"
    assert (folder / "1" / "model.plan").read_bytes() == b"T4 (SM75)"
    assert [each.batch_size for each in config.model_warmup] == [1, 8]
    assert config.version_policy.latest.num_versions == 1


def test_plans_for_several_gpus_become_one_model(engine, tmp_path):
    folder, config = written(tmp_path, engine(T4), engine(A100))
    assert dict(config.cc_model_filenames) == {"7.5": "model.sm75.plan", "8.0": "model.sm80.plan"}
    assert sorted(each.name for each in (folder / "1").iterdir()) == [
        "model.sm75.plan",
        "model.sm75.plan.json",
        "model.sm80.plan",
        "model.sm80.plan.json",
    ]


def test_a_tensorrt_rtx_engine_uses_the_python_backend(engine, tmp_path):
    folder, config = written(tmp_path, engine(RTX_T4))
    assert (config.backend, config.platform) == ("python", "")
    assert "deploykit.serving.python_model" in (folder / "1" / "model.py").read_text()


def test_an_onnx_artifact_uses_the_onnxruntime_backend(tmp_path):
    _, config = written(tmp_path, colours(tmp_path), threads=3)
    assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    assert config.default_model_filename == "model.onnx"
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert config.instance_group[0].kind == type(config.instance_group[0]).KIND_CPU


def test_names_types_and_dims_come_from_the_manifest(engine, manifest, tmp_path):
    odd = replace(
        manifest,
        input=replace(manifest.input, name="picture", dtype="uint8", shape=(8, 8, 3)),
        output=replace(manifest.output, name="heat", shape=(2, 5, 7)),
    )
    _, config = written(tmp_path, engine(RTX_T4, input=odd.input, output=odd.output))
    (taken,), (given,) = config.input, config.output
    assert (taken.name, taken.data_type, list(taken.dims)) == (
        "picture",
        config_schema().TYPE_UINT8,
        [8, 8, 3],
    )
    assert (given.name, given.data_type, list(given.dims)) == ("heat", config_schema().TYPE_FP32, [2, 5, 7])


def test_an_engine_with_a_dynamic_side_has_dynamic_dims(engine, tmp_path):
    _, config = written(tmp_path, engine(RTX_T4, side=SideRange(min=32, opt=32, max=64)), images=False)
    assert list(config.input[0].dims) == [3, -1, -1]


def test_labels_are_written_for_triton(engine, manifest, tmp_path):
    named = replace(manifest.model, labels=("red\nish", "green", "blue"))
    folder, config = written(tmp_path, engine(RTX_T4, model=named))
    assert config.output[0].label_filename == "labels.txt"
    assert (folder / "labels.txt").read_text() == "red ish\ngreen\nblue\n"


def test_the_ensemble_connects_encoded_images_to_the_engine(engine, tmp_path):
    written(tmp_path, engine(RTX_T4))
    ensemble = read_config(tmp_path / "models" / "flowers-image" / "config.pbtxt")
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == ["flowers-decode", "flowers"]
    decode = read_config(tmp_path / "models" / "flowers-decode" / "config.pbtxt")
    assert decode.input[0].data_type == config_schema().TYPE_STRING
    assert list(decode.output[0].dims) == [3, 8, 8]


@pytest.mark.parametrize("profiles", ["1;8", "4,8,16"])
def test_batches_between_profiles_need_the_python_backend(engine, tmp_path, profiles):
    path = engine(T4, batches=parse_profiles(profiles))
    with refuses("triton-batch-mismatch") as caught:
        written(tmp_path, path)
    assert "--backend python" in caught.value.fix
    assert not any((tmp_path / "models").iterdir()) if (tmp_path / "models").exists() else True
    _, config = written(tmp_path, path, backend="python")
    assert config.max_batch_size == max(each.max for each in parse_profiles(profiles))


def test_a_backend_of_another_compiler_is_refused(engine, tmp_path):
    with refuses("triton-backend-mismatch"):
        written(tmp_path, engine(T4), backend="onnxruntime")


# --- batching


def batching(manifest: EngineManifest, took: dict[int, float] | None, target_ms: float | None, **more):
    batches = tuple(BatchRange(min=1, opt=size, max=16) for size in (1, 4, 16))
    manifest = replace(manifest, batches=batches)
    return choose_batching(
        manifest, max_latency_ms=target_ms, batch_ms=None if took is None else took.__getitem__, **more
    )


@pytest.mark.parametrize(
    ("target_ms", "preferred", "delay_us"),
    [
        (None, (4, 16), 0),
        (100, (4, 16), 10_000),  # no longer than a batch of 16 takes
        (25, (4, 16), 5_000),  # what two batches of 16 leave
        (15, (4,), 3_000),  # two of 16 take 20 ms: batches of 4, as long as one takes
        (5, (), 0),  # two of 4 take 6 ms
    ],
)
def test_images_wait_for_what_two_batches_leave_of_the_latency(manifest, target_ms, preferred, delay_us):
    found = batching(manifest, {4: 3.0, 16: 10.0}, target_ms)
    assert (found.preferred, found.delay_us) == (preferred, delay_us)


def test_without_timing_images_wait_a_quarter_of_the_latency(manifest):
    assert batching(manifest, None, 10).delay_us == 2500


def test_without_batching_nothing_waits(manifest):
    found = batching(manifest, None, None, dynamic=False)
    assert (found.preferred, found.delay_us, found.dynamic) == ((), 0, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"target_ms": 0.0},
        {"target_ms": float("nan")},
        {"target_ms": 1e300},
        {"max_queue": 0},
        {"max_queue": 2**32},
    ],
)
def test_a_latency_or_queue_out_of_range_is_refused(manifest, wrong):
    with pytest.raises(DeployError):
        batching(manifest, None, wrong.get("target_ms"), max_queue=wrong.get("max_queue"))


@pytest.mark.parametrize("option", ["max_latency_ms", "max_queue"])
@pytest.mark.parametrize(
    ("batches", "dynamic", "way"),
    [("1,8,16", False, "leave out --no-batching"), ("1", True, "build the engine with --batch")],
)
def test_batching_options_are_refused_without_batching(manifest, option, batches, dynamic, way):
    alone = replace(manifest, batches=parse_profiles(batches))
    with refuses("option-not-applicable") as caught:
        choose_batching(alone, dynamic=dynamic, **{option: 5})
    assert caught.value.problem.startswith(f"--{option.removesuffix('_ms').replace('_', '-')} ")
    assert way in caught.value.fix


def test_threads_are_refused_for_a_gpu_engine(engine, tmp_path):
    with refuses("option-not-applicable"):
        written(tmp_path, engine(RTX_T4), threads=3)


@pytest.mark.parametrize(("latency_ms", "count"), [(1e-6, 1), (1e6, 0)])
def test_a_latency_that_one_image_exceeds_is_noted(tmp_path, latency_ms, count):
    notes: list[str] = []
    options = ModelOptions(name="flowers", max_latency_ms=latency_ms)
    write_repository(tmp_path / "models", [colours(tmp_path)], options, note=notes.append)
    assert [each.endswith("so it can't meet a latency of 1e-06 ms.") for each in notes] == [True] * count


def test_the_largest_queue_and_latency_fit_the_schema(engine, tmp_path):
    _, config = written(tmp_path, engine(RTX_T4), max_queue=2**32 - 1, max_latency_ms=1e16)
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 2**32 - 1


def test_max_queue_limits_waiting_requests(engine, tmp_path):
    _, config = written(tmp_path, engine(RTX_T4), max_queue=7)
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 7


def test_a_configuration_outside_the_schema_is_refused(tmp_path):
    path = tmp_path / "config.pbtxt"
    path.write_text("max_batch_sise: 4")
    with refuses("repository-config-invalid"):
        read_config(path)


def test_two_engines_for_one_gpu_are_refused(engine, tmp_path):
    first = engine(T4)
    twin = tmp_path / "twin.engine"
    plan = first.read_bytes()
    write_engine(twin, plan, read_engine_manifest(first))
    with refuses("engine-repeated"):
        written(tmp_path, first, twin)


def test_engines_of_several_models_need_names(engine, manifest, tmp_path):
    path = colours(tmp_path)
    with refuses("model-name-conflict") as caught:
        written(tmp_path, path, engine(RTX_T4))
    assert "deploykit serve --triton DIR ENGINE --name NAME" in caught.value.fix
    assert "--name" in caught.value.fix
