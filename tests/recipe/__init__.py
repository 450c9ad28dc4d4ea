"""Tests of `edgecnn/recipe`."""
