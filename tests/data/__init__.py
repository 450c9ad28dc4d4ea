"""Tests of `edgecnn/data`."""
