"""INT8: images -> activation ranges -> explicit Q/DQ in the graph."""
