"""Calibration: images -> activation statistics -> ranges, with the methods that read ranges off."""
