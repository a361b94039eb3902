"""Read checkpoints and recognize which network they belong to."""
