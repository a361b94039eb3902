"""Find the largest phi that meets the targets on a GPU."""
