"""FP32 model and images -> activation ranges -> a placement of INT8 -> a graph with explicit Q/DQ.

- Ranges: `find_ranges` loads them or calls `calibrate`. `calibration.activations` streams images through an
  `observer` into `tensor_statistics`, which are `histogram`s, and saves a `checkpoint`. `methods` read ranges
  off the statistics; `method_search` chooses a method and stores its `method_choice` in the `ranges` file.
- Placement: `placement` selects layers by `graph_facts`. `float_fallback`, `accuracy_gate` and `sensitivity`
  measure by `output_error` which layers or `blocks` cost too much accuracy.
- `plan` combines both, `qdq` writes the graph, and `summary` is the part that an engine's manifest keeps.
"""
