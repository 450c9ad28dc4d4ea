"""Tests of `edgecnn/report`."""
