"""How models are served: the options that become Triton's model configuration.

To add an option: add it to ModelOptions, set it in `config.engine_config`, and offer it in cli/serve.py.
Options of the server process are in serving/triton/options.py.
"""

from dataclasses import dataclass
from typing import Literal

Backend = Literal["tensorrt", "onnxruntime", "python"]
"""A Triton backend."""

BACKENDS: tuple[Backend, ...] = ("tensorrt", "onnxruntime", "python")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How to serve a model.

    Attributes:
        name: Name of the model; None for one made of its family and scale.
        backend: Triton backend that runs it; None for the engine's own.
        max_latency_ms: Latency to hold from arrival to answer, queueing included; None to never wait for
            other requests.
        max_queue: Most requests that may wait for a model; None for any number.
        batching: Whether requests are combined into batches.
        instances: Copies of an engine that run at the same time on each GPU.
        threads: Threads of each instance on the CPU; None to share the cores.
        images: Whether to accept encoded images too, through a decoder and an ensemble around the engine.
    """

    name: str | None = None
    backend: Backend | None = None
    max_latency_ms: float | None = None
    max_queue: int | None = None
    batching: bool = True
    instances: int = 1
    threads: int | None = None
    images: bool = True
