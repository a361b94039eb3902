"""Run a model on batches, several at once, and sample its activations."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploykit.data.images.selection import ImageBatch
from deploykit.onnx_tools.ort_session import cpu_session, run_session
from deploykit.quantize.calibration.tensor_statistics import BatchSample, sample_batch
from deploykit.util.array_types import Float32Array
from deploykit.util.prefetch import available_cores, worker_count

if TYPE_CHECKING:
    from onnx import ModelProto

# Limits the memory of the activations, which are all held at once, independently of the image side.
_BATCH_PIXELS = 8 * 224**2
_MAX_BATCH = 32


def images_per_run(side_px: int) -> int:
    """Return how many images to run at once, at least one."""
    return max(1, min(_MAX_BATCH, _BATCH_PIXELS // side_px**2))


def split_cores(side_px: int) -> tuple[int, int, int]:
    """Return how to spread images_per_run images over the cores.

    One batch per core is faster than one batch on all cores: NumPy counts one batch while others run, and no
    core waits for the others at the end of each layer. The threads that run batches also compute, in addition
    to the session's threads, which all of them share.

    Returns:
        Batches to run at once, images per batch, and threads of the session.
    """
    at_once = min(worker_count(), images_per_run(side_px))
    return at_once, images_per_run(side_px) // at_once, available_cores() - at_once + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchObservation:
    """The samples of a batch.

    Attributes:
        images: How many images the batch has.
        end: Position after the last of them. Skipped images may precede it.
        tensors: The sample of each tensor, by name.
    """

    images: int
    end: int
    tensors: dict[str, BatchSample]


class ActivationObserver:
    """Runs a model and samples its activations. Threads may share it.

    Args:
        model: The FP32 model.
        tensors: Names of the activations; may include the input.
        threads: Of the session.
    """

    def __init__(self, model: "ModelProto", tensors: Iterable[str], *, threads: int) -> None:
        from onnx import helper

        graph = type(model)()
        graph.CopyFrom(model)
        (self._input,) = (value.name for value in graph.graph.input)
        self._tensors = [name for name in tensors if name != self._input]
        existing = {value.name for value in graph.graph.output}
        graph.graph.output.extend(
            helper.make_empty_tensor_value_info(name) for name in self._tensors if name not in existing
        )
        self._session = cpu_session(graph.SerializeToString(), threads=threads)
        self._thread = threading.local()

    def observe(self, batch: ImageBatch) -> BatchObservation:
        """Run a batch and sample its activations.

        Raises:
            DeployError: ONNX Runtime can't run the model on the batch.
        """
        tensors = {self._input: sample_batch(batch.inputs)}
        if self._tensors:
            outputs = self._run(batch.inputs)
            tensors |= {name: sample_batch(each) for name, each in zip(self._tensors, outputs, strict=True)}
        return BatchObservation(images=len(batch.inputs), end=int(batch.indices[-1]) + 1, tensors=tensors)

    def _run(self, inputs: Float32Array) -> list[Float32Array]:
        """Return the tensors, in the arrays of this thread's last run of this size, to save memory."""
        by_count: dict[int, list[Float32Array]] = self._thread.__dict__.setdefault("by_count", {})
        if (arrays := by_count.get(len(inputs))) is not None:
            binding = self._session.io_binding()
            binding.bind_cpu_input(self._input, inputs)
            for name, each in zip(self._tensors, arrays, strict=True):
                binding.bind_output(name, "cpu", 0, each.dtype, each.shape, each.ctypes.data)
            try:
                self._session.run_with_iobinding(binding)
            except RuntimeError:  # a shape depends on the images
                del by_count[len(inputs)]
            else:
                return arrays
        by_count[len(inputs)] = run_session(self._session, inputs, self._tensors)
        return by_count[len(inputs)]
