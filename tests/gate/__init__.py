"""Tests of `edgecnn/gate`."""
