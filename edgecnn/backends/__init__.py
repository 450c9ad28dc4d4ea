"""One file or folder per runtime, found by its name."""
