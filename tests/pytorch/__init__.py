"""Tests of `edgecnn/pytorch`."""
