"""An engine between PyCUDA's arrays: nothing leaves the GPU, nothing is copied.

    pip install '.[gpu,pycuda]'  # in a checkout of deploykit
    python pycuda_arrays.py engines/efficientnet-phi0/model.fp16.sm89.engine

Needs a GPU, and has not been run yet.
"""

import sys

import numpy as np
import pycuda.autoprimaryctx  # noqa: F401  # the context that TensorRT and cuda-core share
import pycuda.driver as cuda
from pycuda import gpuarray

from deploykit import Engine

with Engine.load(sys.argv[1]) as engine:
    shape, dtype = engine.manifest.input.shape, engine.manifest.input.dtype
    images = gpuarray.to_gpu(np.zeros((1, *shape), dtype))
    logits = engine(images)  # a GPUArray, too
    print(logits.get().argmax(axis=1))

    stream = cuda.Stream()
    answer = engine.submit(images, stream=stream.handle).result()
    stream.synchronize()  # the answer is there when the stream is
    print(answer.get().argmax(axis=1))
