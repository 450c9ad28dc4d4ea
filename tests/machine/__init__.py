"""Tests of `edgecnn/machine`."""
