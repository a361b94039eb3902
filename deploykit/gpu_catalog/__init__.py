"""GPUs and their facts: the built-in catalogue, and GPUs that a user describes in a file."""
