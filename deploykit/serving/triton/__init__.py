"""Find a Triton installation and run it as a child process."""
