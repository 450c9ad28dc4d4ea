"""Tests of `edgecnn/results`."""
