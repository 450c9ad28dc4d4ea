"""Steps in other processes."""
