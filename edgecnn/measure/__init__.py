"""Measurements: parity, accuracy, latency, precision, and the statistics under them."""
