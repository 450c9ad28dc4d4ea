"""Loops over steps: what is found by trying, each trial kept."""
