"""Tests of `edgecnn/diagnose`."""
