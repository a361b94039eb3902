"""Grid search for the scaling coefficients alpha, beta and gamma of a family."""
