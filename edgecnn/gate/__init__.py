"""The gate: tolerances and measurements in, a verdict out. Pure: no files, no clocks."""
