"""Calibration: one streaming pass over images, every threshold from what it kept."""
