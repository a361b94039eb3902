"""Engines that are only timed end to end; test_gpu_runner_scopes.py tests the other scopes."""

from pathlib import Path

import pytest
from refusals import refuses

from deploykit.bench.benchmark import benchmark
from deploykit.bench.images import random_images
from deploykit.engine.build import build_engine
from deploykit.runtime import Engine


@pytest.mark.parametrize("scope", ["device", "host"])
def test_an_engine_on_the_cpu_is_only_timed_end_to_end(random_b0, tmp_path, run, scope):
    engine = build_engine(onnx=random_b0.path, gpu="cpu", output=tmp_path / "e.onnx").path
    with refuses("gpu-timing-unavailable") as caught:
        benchmark(engine, scope=scope)
    assert "--scope end-to-end" in caught.value.fix
    refused = run("bench", str(engine), "--scope", scope)
    assert (refused.status, refused.out, refused.code) == (2, "", "gpu-timing-unavailable")


def test_an_engine_on_the_cpu_has_no_gpu_timing(random_b0, tmp_path):
    built = build_engine(onnx=random_b0.path, gpu="cpu", output=tmp_path / "e.onnx")
    images = random_images((1, *built.manifest.input.shape), "float32")
    with Engine.load(built.path) as engine:
        for told in (engine.profile_layers, engine.time_calls):
            with refuses("gpu-timing-unavailable"), told(images):
                pass
        assert engine.used_cuda_graphs is None
        engine(images)


@pytest.mark.parametrize("scenario", ["offline", "server"])
@pytest.mark.parametrize("scope", ["device", "host"])
def test_other_scenarios_are_only_timed_end_to_end(scenario, scope):
    bound = 10.0 if scenario == "server" else None
    with refuses("scope-not-applicable") as caught:
        benchmark(Path("there is none"), scenario=scenario, scope=scope, max_latency_ms=bound)
    assert "leave out --scope or --scenario" in caught.value.fix
