"""Q/DQ pairs: where they stand, which scales and codes they carry, and whether they are there."""
