"""Tests of `edgecnn/steps`."""
