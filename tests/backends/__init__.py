"""Tests of `edgecnn/backends`."""
