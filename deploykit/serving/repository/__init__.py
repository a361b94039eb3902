"""Write and check Triton model repositories."""
