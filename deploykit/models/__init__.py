"""Networks brought to life: parameters (weights) and the torch module built from a Network."""
