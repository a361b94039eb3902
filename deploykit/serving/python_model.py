"""Runs an engine inside Triton's Python backend, with one process per instance.

The model.py of a repository imports TritonPythonModel from here. It loads the engine in its folder that runs
on this machine.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploykit.engine.manifest import manifest_path
from deploykit.engine.shapes import round_up_batch
from deploykit.runtime import Engine
from deploykit.runtime.preflight import preflight
from deploykit.serving.repository.tensors import output_arrays
from deploykit.util.array_types import Array
from deploykit.util.errors import DeployError


class TritonPythonModel:
    """An engine's model; Triton defines the methods and their arguments."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        if args["model_instance_kind"] == "GPU":
            _select_gpu(args["model_instance_device_id"])
        folder = Path(args["model_repository"], args["model_version"])
        self._engine = Engine.load(find_engine(folder), threads=thread_count(config))
        manifest = self._engine.manifest
        self._input_name = manifest.input.name
        self._output_names = [each.name for each in manifest.outputs]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run all requests as one batch, and split its outputs among them."""
        import triton_python_backend_utils as triton

        images = [triton.get_input_tensor_by_name(each, self._input_name).as_numpy() for each in requests]
        responses = []
        for outputs in infer_requests(self._engine, images):
            if isinstance(outputs, DeployError):
                error = triton.TritonError(str(outputs), triton.TritonError.INVALID_ARG)
                responses.append(triton.InferenceResponse(error=error))
            else:
                tensors = map(triton.Tensor, self._output_names, outputs)
                responses.append(triton.InferenceResponse(list(tensors)))
        return responses

    def finalize(self) -> None:
        self._engine.close()


def thread_count(config: dict[str, Any]) -> int:
    """Return the threads of an instance on the CPU: as configured, or an equal share of the cores."""
    configured = config.get("parameters", {}).get("threads", {}).get("string_value")
    instances = sum(int(each["count"]) for each in config["instance_group"])
    return int(configured) if configured else max(1, len(os.sched_getaffinity(0)) // instances)


def find_engine(folder: Path) -> Path:
    """Return the engine in a version's folder that runs on this machine.

    Raises:
        DeployError: The folder holds no engine, or none that runs here.
    """
    engines = [each for each in sorted(folder.iterdir()) if manifest_path(each).is_file()]
    if not engines:
        raise DeployError(
            f"{folder} holds no engine.",
            code="engine-not-found",
            fix="write the model again: deploykit serve --triton DIR ENGINE",
        )
    checked = [preflight(each) for each in engines]
    for each in checked:
        if each.runs:
            return each.path
    checked[0].require()
    raise AssertionError  # require raised


def infer_requests(engine: Engine, images: Sequence[Array]) -> list[list[Array] | DeployError]:
    """Return the outputs for each request's images, or the error of that request.

    Triton combines requests before anything has checked them, so a request that can't be run fails alone.
    """
    try:
        return list(infer_batch(engine, images))
    except DeployError as error:
        if len(images) == 1:
            return [error]
    return [outputs for each in images for outputs in infer_requests(engine, [each])]


def infer_batch(engine: Engine, images: Sequence[Array]) -> list[list[Array]]:
    """Run the images of several requests as one batch, and return each request's outputs.

    A batch that no profile of the engine covers is padded with its last image.

    Args:
        images: One array for each request, of shape (images, *input shape).

    Raises:
        DeployError: The engine can't run them, their shapes differ, or a request has no images.
    """
    shapes = {each.shape[1:] for each in images}
    if len(shapes) > 1 or not all(each.ndim and each.size for each in images):
        raise DeployError(
            f"Images of shapes {', '.join(str(each.shape) for each in images)} can't form a batch.",
            code="input-shape-mismatch",
            fix="send one or more images of the shape in the model's configuration",
        )
    counts = [len(each) for each in images]
    batch = images[0] if len(images) == 1 else np.concatenate(images)
    missing = round_up_batch(engine.manifest.batches, len(batch)) - len(batch)
    if missing > 0:
        batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
    outputs = output_arrays(engine(batch))
    ends = np.cumsum(counts)
    return [[array[end - count : end] for array in outputs] for count, end in zip(counts, ends, strict=True)]


def _select_gpu(device: str) -> None:
    """Make this instance's GPU the only visible one: engines run on the first GPU that a process sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(device)] if visible else device
