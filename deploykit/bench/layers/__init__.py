"""Time each layer of an engine and compare it with the roofline."""
