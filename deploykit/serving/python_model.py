"""What Triton's Python backend runs for an engine: deploykit.runtime, a process an instance.

A repository's model.py imports TritonPythonModel from here. It takes the engine of its folder that runs on
the machine.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploykit.engine.manifest import manifest_path
from deploykit.engine.shapes import round_up_batch
from deploykit.runtime import Engine
from deploykit.runtime.preflight import preflight
from deploykit.serving.repository.tensors import answers_of
from deploykit.util.errors import DeployError

Array = npt.NDArray[Any]


class TritonPythonModel:
    """The methods and their arguments are Triton's."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        if args["model_instance_kind"] == "GPU":
            _see_alone(args["model_instance_device_id"])
        folder = Path(args["model_repository"], args["model_version"])
        self._engine = Engine.load(engine_in(folder), threads=threads_of(config))
        manifest = self._engine.manifest
        self._takes = manifest.input.name
        self._gives = [each.name for each in manifest.outputs]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """All requests as one batch, and each one's part of the answers."""
        import triton_python_backend_utils as triton

        images = [triton.get_input_tensor_by_name(each, self._takes).as_numpy() for each in requests]
        responses = []
        for answer in answers_to(self._engine, images):
            if isinstance(answer, DeployError):
                refusal = triton.TritonError(str(answer), triton.TritonError.INVALID_ARG)
                responses.append(triton.InferenceResponse(error=refusal))
            else:
                tensors = map(triton.Tensor, self._gives, answer)
                responses.append(triton.InferenceResponse(list(tensors)))
        return responses

    def finalize(self) -> None:
        self._engine.close()


def threads_of(config: dict[str, Any]) -> int:
    """Of an instance on the CPU: as the configuration says, else the cores are shared among the instances."""
    asked = config.get("parameters", {}).get("threads", {}).get("string_value")
    instances = sum(int(each["count"]) for each in config["instance_group"])
    return int(asked) if asked else max(1, len(os.sched_getaffinity(0)) // instances)


def engine_in(folder: Path) -> Path:
    """The engine of a version's folder that runs on this machine.

    Raises:
        DeployError: none is there, or none runs.
    """
    engines = [each for each in sorted(folder.iterdir()) if manifest_path(each).is_file()]
    if not engines:
        raise DeployError(
            f"There is no engine in {folder}.", code="engine-not-found", fix="write the repository again"
        )
    checked = [preflight(each) for each in engines]
    for each in checked:
        if each.runs:
            return each.path
    checked[0].require()
    raise AssertionError  # require raised


def answers_to(engine: Engine, images: Sequence[Array]) -> list[list[Array] | DeployError]:
    """Of each request's images each output, or why there are none.

    Triton puts requests together before anybody has looked at them: one that can't be run fails alone.
    """
    try:
        return list(run_together(engine, images))
    except DeployError as error:
        if len(images) == 1:
            return [error]
    return [answer for each in images for answer in answers_to(engine, [each])]


def run_together(engine: Engine, images: Sequence[Array]) -> list[list[Array]]:
    """What an engine makes of several requests' images: of each request, each output.

    A batch that no profile of the engine holds is filled up with its last image.

    Raises:
        DeployError: the engine can't run them, or they are of different shapes, or one has no images.
    """
    shapes = {each.shape[1:] for each in images}
    if len(shapes) > 1 or not all(each.ndim and each.size for each in images):
        raise DeployError(
            f"Images of shapes {', '.join(str(each.shape) for each in images)} make no batch.",
            code="input-shape-mismatch",
            fix="send one image or more, of the shape that the model's configuration says",
        )
    counts = [len(each) for each in images]
    batch = images[0] if len(images) == 1 else np.concatenate(images)
    missing = round_up_batch(engine.manifest.batches, len(batch)) - len(batch)
    if missing > 0:
        batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
    answers = answers_of(engine(batch))
    ends = np.cumsum(counts)
    return [[array[end - count : end] for array in answers] for count, end in zip(counts, ends, strict=True)]


def _see_alone(device: str) -> None:
    """Engines run on the first GPU of a process: this instance's shall be that one."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[int(device)] if seen else device
