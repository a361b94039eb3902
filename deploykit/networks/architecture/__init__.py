"""Networks as data: Scale -> Network."""
