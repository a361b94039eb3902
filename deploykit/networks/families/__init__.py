"""One file per network family, and the registry that lists them."""
