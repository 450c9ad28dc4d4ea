"""Tests of `edgecnn/graph`."""
