"""Tests of `edgecnn/artifact`."""
