"""FP32 model and images -> activation ranges -> a placement of INT8 -> a graph with explicit Q/DQ.

- Ranges: `find_ranges` finds them or has `calibration` measure them: `activations` streams images
  through an `observer` into `statistics` of `histogram`s, with a `checkpoint`; `methods` read ranges
  off, `auto` chooses one and keeps its `choice` in the `ranges` file.
- Placement: `placement` asks `graph_facts` what may be in INT8; `leave_out`, `gate` and `sensitivity`
  measure by `output_error` which layers or `blocks` cost too much.
- `plan` puts both together, `qdq` writes the graph, `summary` is what an engine's manifest keeps.
"""
