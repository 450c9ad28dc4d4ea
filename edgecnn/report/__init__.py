"""One file per output format: each renders a `RunReport`."""
