"""Artifacts: a file, its sha256, and the sidecar that says how it was made; written whole or not at all."""
