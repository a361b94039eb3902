"""Run TensorRT plans: deserialization, execution contexts, CUDA graphs, timing."""
