"""Runs a model over batches, several at once, and looks at its activations."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploykit.data.images.selection import ImageBatch
from deploykit.onnx_tools.ort_session import cpu_session, run
from deploykit.quantize.calibration.tensor_statistics import BatchSample, sample_batch
from deploykit.util.prefetch import available_cores, worker_count

if TYPE_CHECKING:
    from onnx import ModelProto

# Images to run at once, so that the activations of all of them, which are held together, take as much memory
# whatever the side.
_BATCH_PIXELS = 8 * 224**2
_LARGEST_BATCH = 32

Array = npt.NDArray[np.float32]


def images_per_run(side_px: int) -> int:
    """Images to run at once, one at least."""
    return max(1, min(_LARGEST_BATCH, _BATCH_PIXELS // side_px**2))


def split_cores(side_px: int) -> tuple[int, int, int]:
    """How all cores run batch_size images: batches at once, images in each, the session's threads.

    A batch a core takes less time than one after the other on all cores: what numpy counts of one is
    counted while others run, and no core waits for another at the end of each layer. The threads that
    run batches compute too, beside the session's own, which all of them share.
    """
    at_once = min(worker_count(), images_per_run(side_px))
    return at_once, images_per_run(side_px) // at_once, available_cores() - at_once + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchObservation:
    """What is counted of a batch.

    Attributes:
        images: how many they are.
        end: position behind the last of them; images left out may stand before it.
        tensors: of each by name.
    """

    images: int
    end: int
    tensors: dict[str, BatchSample]


class ActivationObserver:
    """Threads may share it."""

    def __init__(self, model: "ModelProto", tensors: Iterable[str], *, threads: int) -> None:
        from onnx import helper

        graph = type(model)()
        graph.CopyFrom(model)
        (self._input,) = (value.name for value in graph.graph.input)
        self._tensors = [name for name in tensors if name != self._input]
        already = {value.name for value in graph.graph.output}
        graph.graph.output.extend(
            helper.make_empty_tensor_value_info(name) for name in self._tensors if name not in already
        )
        self._session = cpu_session(graph.SerializeToString(), threads=threads)
        self._own = threading.local()

    def observe(self, batch: ImageBatch) -> BatchObservation:
        """Looks at the input and the tensors.

        Raises:
            DeployError: ONNX Runtime can't run the model on the batch.
        """
        tensors = {self._input: sample_batch(batch.inputs)}
        if self._tensors:
            outputs = self._run(batch.inputs)
            tensors |= {name: sample_batch(each) for name, each in zip(self._tensors, outputs, strict=True)}
        return BatchObservation(images=len(batch.inputs), end=int(batch.indices[-1]) + 1, tensors=tensors)

    def _run(self, inputs: Array) -> list[Array]:
        """The tensors, into the memory of this thread's last run of as many images: new memory piles up."""
        by_count: dict[int, list[Array]] = self._own.__dict__.setdefault("by_count", {})
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
        by_count[len(inputs)] = run(self._session, inputs, self._tensors)
        return by_count[len(inputs)]
