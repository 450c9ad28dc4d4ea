"""Tests of `edgecnn/measure`."""
