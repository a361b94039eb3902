"""The largest phi that meets a target on a GPU: measured here, recorded there, or predicted."""
