"""The grid search that compound scaling begins with: which alpha, beta and gamma a family gains most by."""
