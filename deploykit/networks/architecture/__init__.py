"""Networks as data: layers, shapes, and the builder that families use."""
