"""Labelled images as numpy batches, and which of them calibrate."""
